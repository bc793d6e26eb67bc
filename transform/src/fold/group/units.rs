//! Conversions of an item (domain 2.5, `DQ_UOM_CYCLE`): two ways from one unit to another give the same.

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::i256;

use super::{Finding, Group};
use crate::mapping::decimal::common_divisor;

/// A quotient of whole numbers.
#[derive(Debug, Clone, Copy)]
struct Ratio {
    over: i256,
    under: i256,
}

impl Ratio {
    const ONE: Self = Self { over: i256::ONE, under: i256::ONE };

    fn inverse(self) -> Self {
        Self { over: self.under, under: self.over }
    }

    /// None where it grows out of 256 bits.
    fn times(self, other: Self) -> Option<Self> {
        let (over, under) = (self.over.checked_mul(other.over)?, self.under.checked_mul(other.under)?);
        let common = common_divisor(over, under);
        Some(Self { over: over.wrapping_div(common), under: under.wrapping_div(common) })
    }

    fn equals(self, other: Self) -> bool {
        self.times(other.inverse()).is_none_or(|ratio| ratio.over == ratio.under)
    }
}

pub(super) fn judge(conversions: &Group<'_>) -> Vec<Finding> {
    let from = |row: usize| conversions.date("valid_from", row).unwrap_or(i32::MIN);
    let days: BTreeSet<i32> = (0..conversions.rows).map(from).collect();
    let mut findings: BTreeMap<usize, Finding> = BTreeMap::new();
    for day in days {
        let holds =
            |row: &usize| from(*row) <= day && conversions.date("valid_to", *row).is_none_or(|until| until >= day);
        // They come by units and day: of two for one pair the later one counts.
        let mut pairs: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for row in (0..conversions.rows).filter(holds) {
            let unit = |field: &str| conversions.text(field, row).unwrap_or_default();
            pairs.insert((unit("from_uom"), unit("to_uom")), row);
        }
        let mut agreed: BTreeMap<&str, Vec<(&str, Ratio)>> = BTreeMap::new();
        for ((one, other), row) in pairs {
            let number = |field: &str| i256::from_i128(conversions.units(field, row));
            let ratio = Ratio { over: number("num"), under: number("den") };
            match way(&agreed, one, other, &mut BTreeSet::new()) {
                Some(known) if !known.equals(ratio) => {
                    let reason = format!("the other conversions from {one} to {other} give another number");
                    findings.entry(row).or_insert(Finding { row, rule: "DQ_UOM_CYCLE", reason });
                }
                Some(_) => {}
                None => {
                    agreed.entry(one).or_default().push((other, ratio));
                    agreed.entry(other).or_default().push((one, ratio.inverse()));
                }
            }
        }
    }
    findings.into_values().collect()
}

/// What one unit is in another by the conversions that agree so far; none where there is no way.
fn way<'u>(
    agreed: &BTreeMap<&'u str, Vec<(&'u str, Ratio)>>,
    from: &'u str,
    to: &str,
    passed: &mut BTreeSet<&'u str>,
) -> Option<Ratio> {
    if from == to {
        return Some(Ratio::ONE);
    }
    passed.insert(from);
    agreed.get(from)?.iter().find_map(|(next, ratio)| {
        let rest = if passed.contains(next) { None } else { way(agreed, next, to, passed) };
        rest?.times(*ratio)
    })
}
