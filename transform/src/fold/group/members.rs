//! Where an item lies in a tree (domain 2.5, H1): under one node that counts at a time.

use super::{Finding, Group};

pub(super) fn judge(members: &Group<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    // They come by the day from which on they hold. The last day that one before holds, and that one.
    let mut last: Option<(i32, usize)> = None;
    for row in (0..members.rows).filter(|&row| members.flag("is_primary", row)) {
        let node = |row: usize| members.text("node_id", row).unwrap_or_default();
        let from = members.date("valid_from", row).unwrap_or(i32::MIN);
        if let Some((_, before)) = last.filter(|(until, before)| *until >= from && node(*before) != node(row)) {
            let reason = format!("{} and {} count for the item on one day", node(before), node(row));
            findings.push(Finding { row, rule: "H1", reason });
        }
        let until = members.date("valid_to", row).unwrap_or(i32::MAX);
        if last.is_none_or(|(longest, _)| until >= longest) {
            last = Some((until, row));
        }
    }
    findings
}
