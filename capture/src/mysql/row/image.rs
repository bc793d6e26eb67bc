//! Where the values of a row lie.
//!
//! ```text
//! one bit for each column that came: it is NULL | the values of the others, one behind the other
//! ```
//! A column that did not come is *absent*, which is not NULL: with `binlog_row_image` MINIMAL or NOBLOB the log leaves
//! out what a change did not touch.

use super::kind::{Extent, Kind};
use crate::mysql::bytes::{Cursor, SHORT, bit, little_endian};

/// A value's place among the bytes of its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cell {
    Value {
        start: usize,
        end: usize,
    },
    /// What of the value before is another now: of JSON, where the server logs no more of it.
    Changed {
        start: usize,
        end: usize,
    },
    Null,
    /// The log did not send it.
    Absent,
}

/// How long the values of a table's columns are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    extents: Vec<Extent>,
    /// Places of the columns of JSON.
    json: Vec<usize>,
}

impl Layout {
    pub(crate) fn of(kinds: &[Kind]) -> Self {
        let json = (0..kinds.len()).filter(|column| kinds[*column] == Kind::Json).collect();
        Self { extents: kinds.iter().map(Kind::extent).collect(), json }
    }

    /// How many columns came.
    pub(crate) fn present(&self, came: &[u8]) -> usize {
        (0..self.extents.len()).filter(|column| bit(came, *column)).count()
    }

    /// Finds the values of the row that begins at `at`, which moves behind it; `present` says how many columns `came`.
    #[inline]
    pub(crate) fn read(
        &self,
        rows: &[u8],
        at: &mut usize,
        came: &[u8],
        present: usize,
        cells: &mut Vec<Cell>,
    ) -> Result<(), &'static str> {
        cells.clear();
        let nulls = rows.get(*at..*at + present.div_ceil(8)).ok_or(SHORT)?;
        let mut place = *at + nulls.len();
        let mut nth = 0;
        for (column, extent) in self.extents.iter().enumerate() {
            if !bit(came, column) {
                cells.push(Cell::Absent);
                continue;
            }
            let is_null = bit(nulls, nth);
            nth += 1;
            if is_null {
                cells.push(Cell::Null);
                continue;
            }
            let (start, len) = match *extent {
                Extent::Fixed(len) => (place, len),
                Extent::Prefix(prefix) => {
                    let start = place + usize::from(prefix);
                    let len = little_endian(rows.get(place..start).ok_or(SHORT)?);
                    (start, usize::try_from(len).map_err(|_| SHORT)?)
                }
            };
            let end = start.checked_add(len).filter(|end| *end <= rows.len()).ok_or(SHORT)?;
            cells.push(Cell::Value { start, end });
            place = end;
        }
        *at = place;
        Ok(())
    }

    /// As [`Self::read`], of a row after an update that may say of JSON what was changed in it: options, and where these say
    /// so one bit for each column of JSON, came it or not, stand in front.
    pub(crate) fn read_changed(
        &self,
        rows: &[u8],
        at: &mut usize,
        came: &[u8],
        present: usize,
        cells: &mut Vec<Cell>,
    ) -> Result<(), &'static str> {
        const PARTIAL_JSON: u64 = 1;
        let mut cursor = Cursor::new(rows.get(*at..).ok_or(SHORT)?);
        let changed = match cursor.lenenc()? {
            0 => &[],
            PARTIAL_JSON => cursor.take(self.json.len().div_ceil(8))?,
            _ => return Err("it is logged with an option that is not known"),
        };
        *at = rows.len() - cursor.rest().len();
        self.read(rows, at, came, present, cells)?;
        for (_, column) in self.json.iter().enumerate().filter(|(nth, _)| bit(changed, *nth)) {
            if let Some(&Cell::Value { start, end }) = cells.get(*column) {
                cells[*column] = Cell::Changed { start, end };
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout() -> Layout {
        Layout {
            extents: vec![Extent::Fixed(2), Extent::Prefix(1), Extent::Fixed(1), Extent::Prefix(2)],
            json: vec![1, 3],
        }
    }

    #[test]
    fn what_was_changed_in_a_value_is_never_taken_for_the_value() {
        let (layout, mut at, mut cells) = (layout(), 0, Vec::new());
        // The first JSON did not come and has its bit all the same.
        let rows = [1, 0b10, 0, 9, 3, 0, 7, 7, 7, 0, 0, 9, 1, 0, 8];
        layout.read_changed(&rows, &mut at, &[0b1100], 2, &mut cells).unwrap();
        assert_eq!(cells[1..], [Cell::Absent, Cell::Value { start: 3, end: 4 }, Cell::Changed { start: 6, end: 9 }]);
        layout.read_changed(&rows, &mut at, &[0b1100], 2, &mut cells).unwrap();
        assert_eq!((cells[3], at), (Cell::Value { start: 14, end: 15 }, 15), "without options");
        assert!(layout.read_changed(&[2, 0, 0], &mut 0, &[0b1100], 2, &mut cells).is_err(), "another option");
        assert_eq!(layout.read_changed(&[1], &mut 0, &[0b1100], 2, &mut cells), Err(SHORT));
    }

    #[test]
    fn what_did_not_come_is_absent_and_what_is_null_is_null() {
        let rows = [0b10, 1, 2, 9, 0b00, 3, 4, 8];
        let (layout, came) = (layout(), [0b0101]);
        let (mut at, mut cells) = (0, Vec::new());
        layout.read(&rows, &mut at, &came, layout.present(&came), &mut cells).unwrap();
        assert_eq!(cells, [Cell::Value { start: 1, end: 3 }, Cell::Absent, Cell::Null, Cell::Absent]);
        assert_eq!(at, 3);
        at = 4;
        layout.read(&rows, &mut at, &came, 2, &mut cells).unwrap();
        assert_eq!((cells[2], at), (Cell::Value { start: 7, end: 8 }, 8));
        let all = [0b1111];
        assert_eq!(layout.read(&[0, 1, 2, 1, 7, 3, 5, 0, 1], &mut 0, &all, 4, &mut cells), Err(SHORT));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_it_panic(rows in proptest::collection::vec(any::<u8>(), 0..30), came in any::<[u8; 1]>(), at in 0_usize..20) {
            let (layout, mut at, mut cells) = (layout(), at, Vec::new());
            let present = layout.present(&came);
            while layout.read(&rows, &mut at, &came, present, &mut cells).is_ok() && at < rows.len() && present > 0 {}
            while layout.read_changed(&rows, &mut at, &came, present, &mut cells).is_ok() && at < rows.len() {}
        }
    }
}
