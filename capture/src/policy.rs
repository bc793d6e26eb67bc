//! What the operator wants done with what is out of the ordinary, whichever database it comes from.

/// What to do with values that Arrow's exact types cannot hold: `NaN` in a decimal, infinite, BC or far
/// dates, dates with a zero in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SpecialValues {
    /// Stop the source and name table and column.
    #[default]
    Stop,
    /// Take them as NULL.
    Null,
}

/// What to do where a table is emptied by `TRUNCATE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Truncates {
    /// Its rows are taken back.
    #[default]
    Apply,
    /// Stop the source before that.
    Stop,
}

/// Whether the tables are copied before the log is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SnapshotMode {
    /// Copy every table once, then follow the log from exactly there.
    #[default]
    Initial,
    /// Follow the log from where it stands.
    Never,
}

/// What to do where changes are lost to the server's log behind what the journal holds: it was removed or reset, or a new primary
/// lacks what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogGap {
    /// Read the tables anew, compare, and go on; where tables may not be copied, stop.
    #[default]
    Repair,
    /// Stop the source.
    Stop,
}
