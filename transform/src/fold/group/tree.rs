//! Nodes of a tree (domain 2.5, H2 to H5): siblings of one name, nodes below themselves, parents that are not there, levels
//! that do not count up.

use std::collections::HashMap;

use super::{Finding, Group};

pub(super) fn judge(nodes: &Group<'_>) -> Vec<Finding> {
    let id = |row: usize| nodes.text("node_id", row).unwrap_or_default();
    let by_id: HashMap<&str, usize> = (0..nodes.rows).map(|row| (id(row), row)).collect();
    let parent = |row: usize| nodes.text("parent_node_id", row);
    let above = |row: usize| parent(row).and_then(|parent| by_id.get(parent).copied());
    let mut findings = Vec::new();
    let mut siblings: HashMap<(Option<&str>, &str, String), usize> = HashMap::new();
    for row in 0..nodes.rows {
        if let Some(parent) = parent(row).filter(|parent| !by_id.contains_key(parent)) {
            findings.push(Finding { row, rule: "H4", reason: format!("its parent {parent} is not there") });
        }
        let levels = above(row).and_then(|above| Some((nodes.integer("level", row)?, nodes.integer("level", above)?)));
        if let Some((level, above)) = levels.filter(|(level, above)| *level != above + 1) {
            findings.push(Finding {
                row,
                rule: "H5",
                reason: format!("its level is {level}, its parent's is {above}"),
            });
        }
        let same = ["name", "code"].into_iter().find_map(|field| {
            let known = (parent(row), field, plain(nodes.text(field, row)?));
            let first = *siblings.entry(known).or_insert(row);
            (first != row).then(|| format!("its {field} is that of {} under the same parent", id(first)))
        });
        findings.extend(same.map(|reason| Finding { row, rule: "H2", reason }));
    }
    findings.extend(cycles(nodes.rows, &above).into_iter().map(|cycle| {
        let names: Vec<&str> = cycle.iter().map(|&row| id(row)).collect();
        Finding { row: cycle[0], rule: "H3", reason: format!("it lies below itself: {}", names.join(" below ")) }
    }));
    findings
}

/// A text as people compare it: case, spaces and leading zeros do not count.
fn plain(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect();
    let digits = text.trim_start_matches('0');
    if digits.is_empty() { "0".to_owned() } else { digits.to_owned() }
}

/// Each cycle once, from its first row on.
fn cycles(rows: usize, above: &dyn Fn(usize) -> Option<usize>) -> Vec<Vec<usize>> {
    let mut seen_from = vec![usize::MAX; rows];
    let mut cycles = Vec::new();
    for begin in 0..rows {
        let mut at = begin;
        while seen_from[at] == usize::MAX {
            seen_from[at] = begin;
            let Some(next) = above(at) else { break };
            at = next;
        }
        // A row that this very walk has come to before.
        if seen_from[at] == begin && above(at).is_some_and(|next| seen_from[next] == begin) {
            let mut cycle = vec![at];
            let mut next = above(at);
            while let Some(row) = next.filter(|row| *row != at) {
                cycle.push(row);
                next = above(row);
                if cycle.len() > rows {
                    break;
                }
            }
            if next == Some(at) {
                let first = cycle.iter().enumerate().min_by_key(|(_, row)| **row).map_or(0, |(first, _)| first);
                cycle.rotate_left(first);
                cycles.push(cycle);
            }
        }
    }
    cycles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cycle_is_found_once_and_no_tail_is_one() {
        let find = |parents: &[Option<usize>]| cycles(parents.len(), &|row| parents[row]);
        assert_eq!(find(&[None, Some(0), Some(1)]), Vec::<Vec<usize>>::new());
        assert_eq!(find(&[Some(0)]), [vec![0]]);
        assert_eq!(find(&[Some(1), Some(2), Some(3), Some(1)]), [vec![1, 2, 3]]);
        assert_eq!(find(&[Some(1), Some(0), Some(3), Some(2), Some(2)]), [vec![0, 1], vec![2, 3]]);
    }

    #[test]
    fn case_spaces_and_padding_do_not_make_another_name() {
        assert_eq!((plain("Hand  Tools"), plain("0042"), plain("000")), (plain("HANDTOOLS"), plain("42"), plain("0")));
    }
}
