//! GTIDs of MySQL: of each source, and of each of its tags, the intervals of numbers that were seen.
//!
//! Invariant: intervals are not empty, lie in order and touch no other, so that equal sets are equal values.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A server's uuid.
pub(crate) type Source = [u8; 16];

/// Numbers begin at 1 and end before this.
const NUMBER_END: u64 = i64::MAX.unsigned_abs();
/// A tag has at most so many bytes.
const TAG_LEN_MAX: usize = 32;

/// Whose numbers they are: a source's, with a tag or without one (which is empty then).
type Owner = (Source, Arc<str>);

/// `uuid[:tag]:number`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MySqlGtid {
    pub(crate) source: Source,
    /// Empty where there is none.
    pub(crate) tag: Arc<str>,
    pub(crate) number: u64,
}

impl fmt::Display for MySqlGtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Uuid(&self.source))?;
        if !self.tag.is_empty() {
            write!(f, ":{}", self.tag)?;
        }
        write!(f, ":{}", self.number)
    }
}

impl FromStr for MySqlGtid {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FAULT: &str = "a GTID of MySQL has another form than uuid[:tag]:number";
        let mut parts = text.split(':');
        let source = parts.next().and_then(uuid).ok_or(FAULT)?;
        let (tag, number) = match (parts.next(), parts.next(), parts.next()) {
            (Some(number), None, None) => ("", number),
            (Some(tag), Some(number), None) if is_tag(tag) => (tag, number),
            _ => return Err(FAULT),
        };
        let (number, end) = interval(number).ok_or(FAULT)?;
        if number + 1 == end { Ok(Self { source, tag: Arc::from(tag), number }) } else { Err(FAULT) }
    }
}

struct Uuid<'a>(&'a Source);

impl fmt::Display for Uuid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" })?;
        }
        Ok(())
    }
}

/// Reads a uuid with or without its dashes.
fn uuid(text: &str) -> Option<Source> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|nibble| u8::try_from(nibble).ok());
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?)).collect();
    bytes?.try_into().ok()
}

/// The transactions that a server has executed, as in `gtid_executed`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct MySqlSet(BTreeMap<Owner, Vec<(u64, u64)>>);

impl fmt::Display for MySqlSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = None;
        for ((source, tag), intervals) in &self.0 {
            if last == Some(source) {
                write!(f, ":{tag}")?;
            } else {
                write!(f, "{}{}", if last.is_some() { "," } else { "" }, Uuid(source))?;
                if !tag.is_empty() {
                    write!(f, ":{tag}")?;
                }
            }
            for (from, end) in intervals {
                if from + 1 == *end { write!(f, ":{from}")? } else { write!(f, ":{from}-{}", end - 1)? }
            }
            last = Some(source);
        }
        Ok(())
    }
}

impl FromStr for MySqlSet {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut set = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let mut pieces = part.split(':').map(str::trim);
            let source = pieces.next().and_then(uuid).ok_or("a source in a GTID set is no uuid")?;
            let mut tag: Arc<str> = Arc::from("");
            for piece in pieces {
                match interval(piece) {
                    Some((from, end)) => set.add_interval((source, Arc::clone(&tag)), from, end),
                    None if is_tag(piece) => tag = Arc::from(piece.to_ascii_lowercase()),
                    None => return Err("an interval in a GTID set has another form"),
                }
            }
        }
        Ok(set)
    }
}

/// `7` or `1-5`, as a range that does not have its end.
fn interval(text: &str) -> Option<(u64, u64)> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| {
        let digits = text.trim();
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u64>().ok())?
    };
    let (from, to) = (number(from)?, number(to)?);
    (from >= 1 && from <= to && to < NUMBER_END).then_some((from, to + 1))
}

/// A letter or an underscore, then those and digits.
pub(crate) fn is_tag(text: &str) -> bool {
    let is_first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    text.len() <= TAG_LEN_MAX
        && text.bytes().next().is_some_and(is_first)
        && text.bytes().all(|byte| is_first(byte) || byte.is_ascii_digit())
}

fn count(len: usize) -> u64 {
    u64::try_from(len).expect("memory has fewer parts than that")
}

impl MySqlSet {
    fn add_interval(&mut self, owner: Owner, from: u64, end: u64) {
        let intervals = self.0.entry(owner).or_default();
        // Nearly always the last one grows by one.
        let first = intervals.partition_point(|held| held.1 < from);
        let behind = intervals.partition_point(|held| held.0 <= end);
        let (mut low, mut high) = (from, end);
        for held in &intervals[first..behind] {
            (low, high) = (low.min(held.0), high.max(held.1));
        }
        intervals.splice(first..behind, [(low, high)]);
    }

    pub(crate) fn add(&mut self, gtid: &MySqlGtid) {
        let number = gtid.number;
        let owner = (gtid.source, Arc::clone(&gtid.tag));
        if (1..NUMBER_END).contains(&number) {
            self.add_interval(owner, number, number + 1);
        }
    }

    pub(crate) fn holds(&self, gtid: &MySqlGtid) -> bool {
        self.covers(&(gtid.source, Arc::clone(&gtid.tag)), gtid.number, gtid.number.saturating_add(1))
    }

    fn covers(&self, owner: &Owner, from: u64, end: u64) -> bool {
        let Some(intervals) = self.0.get(owner) else { return false };
        let place = intervals.partition_point(|held| held.1 < end);
        intervals.get(place).is_some_and(|held| held.0 <= from)
    }

    pub(crate) fn contains(&self, other: &Self) -> bool {
        other.0.iter().all(|(owner, intervals)| intervals.iter().all(|(from, end)| self.covers(owner, *from, *end)))
    }

    /// Those that are not in another set.
    pub(crate) fn without(&self, other: &Self) -> Self {
        let mut left = Self::default();
        for (owner, intervals) in &self.0 {
            let held = other.0.get(owner).map(Vec::as_slice).unwrap_or_default();
            for &(from, end) in intervals {
                let mut at = from;
                for &(low, high) in held.iter().filter(|(low, high)| *high > from && *low < end) {
                    if at < low {
                        left.add_interval(owner.clone(), at, low);
                    }
                    at = high;
                }
                if at < end {
                    left.add_interval(owner.clone(), at, end);
                }
            }
        }
        left
    }

    /// As the request for the log has it. A server before 8.3 knows no tags; it is sent none unless the set has some.
    ///
    /// ```text
    /// owners u64 | (source 16 | intervals u64 | (from u64 | end u64)*)*          little-endian
    /// owners * 256 + (1 << 56) | (source 16 | length of the tag * 2 u8, tag | intervals ...)*       with tags
    /// ```
    pub(crate) fn encode(&self) -> Vec<u8> {
        let has_tags = self.0.keys().any(|(_, tag)| !tag.is_empty());
        let owners = count(self.0.len());
        let mut out = if has_tags { owners << 8 | 1 << 56 } else { owners }.to_le_bytes().to_vec();
        for ((source, tag), intervals) in &self.0 {
            out.extend_from_slice(source);
            if has_tags {
                // A number of variable length, which has one byte below 128.
                out.push(u8::try_from(tag.len() << 1).expect("a tag is short"));
                out.extend_from_slice(tag.as_bytes());
            }
            out.extend_from_slice(&count(intervals.len()).to_le_bytes());
            for (from, end) in intervals {
                out.extend_from_slice(&from.to_le_bytes());
                out.extend_from_slice(&end.to_le_bytes());
            }
        }
        out
    }

    /// Those that have transactions in it.
    pub(crate) fn sources(&self) -> impl Iterator<Item = Source> {
        self.0.keys().map(|(source, _)| *source)
    }

    pub(crate) fn unite(&mut self, other: &Self) {
        for (owner, intervals) in &other.0 {
            intervals.iter().for_each(|(from, end)| self.add_interval(owner.clone(), *from, *end));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn set(text: &str) -> MySqlSet {
        text.parse().unwrap()
    }

    #[test]
    fn a_set_is_read_and_written_as_the_server_does_with_and_without_tags() {
        let text = format!("{A}:1-5:7:9-11,{B}:3:load:1-2:other:8");
        assert_eq!(set(&text).to_string(), text);
        assert_eq!(set(&format!("{A}:7 : 1-5,\n{}:9-11:6", A.to_uppercase())), set(&format!("{A}:1-7:9-11")));
        assert_eq!(set(""), MySqlSet::default());
    }

    #[test]
    fn a_set_is_sent_as_the_server_reads_it() {
        let plain = set(&format!("{A}:1-5:7")).encode();
        assert_eq!(plain.len(), 8 + 16 + 8 + 32);
        assert_eq!((plain[0], plain[7], plain[24], plain[32], plain[40]), (1, 0, 2, 1, 6));
        let tagged = set(&format!("{A}:1:load:2")).encode();
        assert_eq!((tagged[0], tagged[1], tagged[7]), (0, 2, 1));
        assert_eq!(tagged.len(), 8 + 2 * (16 + 1 + 8 + 16) + 4);
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for text in [
            "x:1",
            &format!("{A}:0"),
            &format!("{A}:5-3"),
            &format!("{A}:+1"),
            &format!("{A}:9223372036854775807"),
            &format!("{A}:-1"),
            &format!("{A}:1-2-3"),
        ] {
            assert!(text.parse::<MySqlSet>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_transaction_that_another_server_lacks_is_missed_wherever_it_lies() {
        let held = set(&format!("{A}:1-5:7,{B}:1-9"));
        for (executed, contains) in [
            (format!("{A}:1-9,{B}:1-9"), true),
            (format!("{A}:1-6,{B}:1-9"), false),
            (format!("{A}:1-7,{B}:2-9"), false),
            (format!("{A}:1-7"), false),
            (format!("{A}:1-7,{B}:tag:1-9"), false),
        ] {
            assert_eq!(set(&executed).contains(&held), contains, "{executed}");
        }
    }

    fn of(numbers: &BTreeSet<u64>) -> MySqlSet {
        let mut set = MySqlSet::default();
        // Not in order.
        let mut numbers: Vec<u64> = numbers.iter().copied().collect();
        numbers.sort_by_key(|number| number % 7);
        for number in numbers {
            set.add(&MySqlGtid { source: [1; 16], tag: Arc::from(""), number });
        }
        set
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn intervals_are_the_set_of_their_numbers(a in proptest::collection::btree_set(1_u64..40, 0..30), b in proptest::collection::btree_set(1_u64..40, 0..30)) {
            let (one, other) = (of(&a), of(&b));
            prop_assert_eq!(&set(&one.to_string()), &one);
            prop_assert_eq!(one.contains(&other), a.is_superset(&b));
            let mut both = one.clone();
            both.unite(&other);
            prop_assert_eq!(&both, &of(&(&a | &b)));
            prop_assert_eq!(&one.without(&other), &of(&(&a - &b)));
            for number in 1..42 {
                prop_assert_eq!(one.holds(&MySqlGtid { source: [1; 16], tag: Arc::from(""), number }), a.contains(&number));
            }
        }
    }
}
