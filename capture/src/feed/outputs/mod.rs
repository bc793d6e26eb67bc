//! Planning outputs: cycles that a planning platform publishes become frames, each output a table.
//!
//! A cycle is the complete set of an output's rows, so putting it into the log is reading a table anew: the log is told that
//! the reading begins, gets every row, and is told that it has ended. Rows of the cycle before of which nothing came are gone
//! then, and the fold tells targets only what differs. Nothing has to be remembered here but which cycle the log holds, and
//! a cycle of millions of rows takes no more memory than a page and a frame.
//!
//! ```text
//! platform                     log                                                    position
//! cycle A, a page at a time    begin | rows | rows | ... | end (txn_end)              cut at A ... whole: A
//! the same                     nothing
//! cycle B                      begin | rows | -- the process dies --                  whole: A, cut at B
//!                                            begin | rows | ... | end (txn_end)       whole: B
//! ```
//!
//! All of it is one transaction, so targets see whole cycles only. One that was cut is pulled again from its start, which the
//! second beginning makes good: what came before it and does not come again is gone as well. While it is kept, the same
//! cycle is pulled again, for then the rows are the same.
//!
//! That a cycle was read whole is proved by its count of rows, which every page tells. A page that contradicts the others, or
//! a value that is not of its field's type, stops the source with its place: half of a plan is no plan.
//!
//! ```text
//! config     what the operator says, and the seams: who asks the platform, who rings
//! table      an output's shape and the builders of its columns
//! column     a JSON value -> an Arrow builder; pure
//! page       bytes -> a page, rows -> builders; pure
//! position   what the log holds, as bytes in a frame
//! pull       a cycle into the log, frame by frame
//! session    the loop
//! ```

mod column;
mod config;
mod page;
mod position;
mod pull;
mod session;
#[cfg(test)]
mod session_tests;
mod table;

pub use config::{Bell, NoPage, OutputsApi, OutputsConfig, Pages};
pub use position::begin_again;
pub use session::{Newest, check, run};
pub use table::table_schemas;
