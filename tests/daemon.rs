//! The whole daemon on real servers: named disasters, and what must still be true after them.
//!
//! Every test has the daemon and the planner as child processes and a folder of its own and, but for those of seeds, planning outputs and
//! MariaDB, a private PostgreSQL with the demo's distributor. The oracle is PostgreSQL itself running the mappings' SQL over the final tables; the planner is
//! compared with it in SQL, the lake with the planner by an independent reader.

mod daemon {
    mod anew;
    pub(crate) mod demo;
    mod disasters;
    mod disk;
    mod equal_rows;
    mod held;
    mod lake;
    mod letters;
    mod loads;
    mod memory;
    mod mysql;
    mod outputs;
    mod query;
    mod ready;
    mod refusals;
    mod replay;
    mod seeds;
    mod showcase;
    mod snapshots;
    mod world;
}
