//! Why a driving row or a sum is held, as the operator will read it: one record per mapping and driving key, or per
//! entity key.

use syncline_schemas::ident::LogOffset;

use crate::mapping::RowFault;

const FAULT: u8 = 0;
const WAITING: u8 = 1;
const SUM: u8 = 2;

/// Key of the record of a row that breaks a rule.
pub(super) fn fault_key(contribution: &[u8]) -> Vec<u8> {
    [&[FAULT], contribution].concat()
}

/// Key of the record of a row that waits for another to let go of its entity key.
pub(super) fn waiting_key(contribution: &[u8]) -> Vec<u8> {
    [&[WAITING], contribution].concat()
}

/// Key of the record of a sum that does not fit its fields.
pub(super) fn sum_key(prefix: &[u8], entity_key: &[u8]) -> Vec<u8> {
    [&[SUM], prefix, entity_key].concat()
}

/// The record: rule, field, reason and log offset, a line each.
pub(super) fn record(fault: &RowFault, offset: LogOffset) -> Vec<u8> {
    format!("{}\n{}\n{}\n{offset}", fault.rule, fault.field, fault.reason).into_bytes()
}

/// The record of a waiting row.
pub(super) fn waiting() -> Vec<u8> {
    "DQ_ID_AMBIGUOUS\n\nanother row of the source already gives this key; the first one stands until it is gone\n"
        .as_bytes()
        .to_vec()
}
