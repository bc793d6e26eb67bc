//! The fold against an oracle: any history of source rows, cut into any frames and crashed at any commit, must give the
//! canonical rows that plain Rust computes from the final tables.

#[path = "fold/changed.rs"]
mod changed;
#[path = "fold/cuts.rs"]
mod cuts;
#[path = "fold/datafusion.rs"]
mod datafusion;
#[path = "fold/duckdb.rs"]
mod duckdb;
#[path = "fold/faults.rs"]
mod faults;
#[path = "fold/frames.rs"]
mod frames;
#[path = "fold/groups.rs"]
mod groups;
#[path = "fold/held.rs"]
mod held;
#[path = "fold/history.rs"]
mod history;
#[path = "fold/joins.rs"]
mod joins;
#[path = "fold/memory.rs"]
mod memory;
#[path = "fold/misfits.rs"]
mod misfits;
#[path = "fold/multisets.rs"]
mod multisets;
#[path = "fold/oracle.rs"]
mod oracle;
#[path = "fold/outbox.rs"]
mod outbox;
#[path = "fold/references.rs"]
mod references;
#[path = "fold/rules.rs"]
mod rules;
#[path = "fold/sources.rs"]
mod sources;
#[path = "fold/sweeps.rs"]
mod sweeps;
#[path = "fold/truncate.rs"]
mod truncate;
#[path = "fold/vectors.rs"]
mod vectors;
