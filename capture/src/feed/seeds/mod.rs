//! Seeds: a folder of CSV files (unit conversions, cross references, regions), each a table of the source `seeds`.
//!
//! A file has no log of its changes, so this reader makes them: it compares what the folder says with what it last put
//! into the log and appends the difference, rows that are equal in both not at all. For that the last content must
//! outlive the process, exactly:
//!
//! ```text
//! folder      what people edit                      polled; loaded once two looks a poll apart agree, and only as a whole
//! kept/       <hash>.csv, immutable, fsynced        what the log's rows were computed from; written before the frame
//! log         frames, each with a position          names, per table, the kept content and how it was read: the one authority
//! ```
//!
//! What changed together is one transaction, in one frame where it fits. The difference follows from the two contents
//! alone, so a change that was cut in the middle (a crash between its frames) is computed again from the kept files and
//! goes on behind the rows that the log holds. A content goes away only when nothing durable names it any longer.
//!
//! A fault in any file leaves all rows in force as they are: half of a change that belongs together is no state that
//! anybody meant. The fault shows in [`crate::Progress::problem`] until the folder is mended.
//!
//! ```text
//! config            what the operator says
//! fault             what is wrong with a file, with its place and the remedy
//! lines, column     places in a file; a column's Arrow builder
//! header, content   bytes -> names, layout, a table; pure
//! table             a table in memory: its shape, columns, keys and rows as bytes
//! change            two contents -> rows with their operations, batches; pure
//! position          what the log holds, as bytes in a frame
//! kept              the content-addressed files
//! folder            the operator's files, and when they have come to rest
//! load, check       the folder as a whole: for the reader and for `syncline check`
//! append            a change into the log, frame by frame
//! session           the loop
//! ```

mod append;
mod change;
mod check;
mod column;
mod config;
mod content;
mod fault;
mod folder;
mod header;
mod kept;
mod lines;
mod load;
mod position;
mod session;
#[cfg(test)]
mod session_tests;
mod table;

pub use check::{SeedFile, check, table_schemas};
pub use config::{CellType, CellTypeError, SeedsConfig, ShapeJudge, TableSpec};
pub use fault::FileFault;
pub use position::begin_again;
pub use session::run;
