//! Where in its files a server's log is read, or ends.
//!
//! A place is good at one server and for a moment: how much of the log lies between two of them, and which comes first. Where a source
//! stands is said in the numbers of transactions.

use std::cmp::Ordering;

/// Of how many bytes an event says where its end is: of the lower four.
const LOW_BITS: u32 = 32;

/// A place in the log of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: String,
    /// Bytes from the file's beginning.
    pub(crate) at: u64,
}

impl Place {
    pub(crate) fn of(file: &str, at: &str) -> Option<Self> {
        let at = at.parse().ok()?;
        (!file.is_empty()).then(|| Self { file: file.to_owned(), at })
    }

    /// Goes on to the end of an event, as far as its head has room to say where that is. One that is made up says nothing of it.
    pub(crate) fn reach(&mut self, low: u32) {
        let (low, high) = (u64::from(low), self.at >> LOW_BITS << LOW_BITS);
        // A file is larger where a transaction is.
        let is_behind = high + low + (1 << (LOW_BITS - 1)) < self.at;
        let at = high + low + if is_behind { 1 << LOW_BITS } else { 0 };
        if low > 0 {
            self.at = self.at.max(at);
        }
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Place {
    /// Files are numbered with six digits, and with more behind the last of these.
    fn cmp(&self, other: &Self) -> Ordering {
        (self.file.len(), &self.file, self.at).cmp(&(other.file.len(), &other.file, other.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_behind_the_millionth_come_behind_it() {
        let place = |file: &str, at: &str| Place::of(file, at).unwrap();
        assert!(place("bin.000009", "900") < place("bin.000010", "4"));
        assert!(place("bin.999999", "900") < place("bin.1000000", "4"));
        assert!(place("bin.000009", "9") < place("bin.000009", "10"));
        assert_eq!(Place::of("", "4"), None);
    }

    #[test]
    fn a_file_larger_than_an_event_can_say_is_read_to_its_end() {
        let mut place = Place { file: "bin.000001".to_owned(), at: 4 };
        let mut reach = |low: u32| {
            place.reach(low);
            place.at
        };
        assert_eq!((reach(300), reach(0), reach(200)), (300, 300, 300), "made up, or of the file's beginning");
        assert_eq!(reach(u32::MAX - 5), 4_294_967_290);
        assert_eq!(reach(100), (1 << 32) + 100);
        assert_eq!(reach(u32::MAX), (2 << 32) - 1);
        assert_eq!(reach(7), (2 << 32) + 7);
    }
}
