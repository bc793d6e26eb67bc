//! The parts of `syncline demo` that tests are made of: server, ERP, traffic, comparison, child processes.
#![allow(dead_code, reason = "the demo uses what the tests do not")]

#[path = "../../src/demo/compare.rs"]
pub(crate) mod compare;
#[path = "../../src/demo/drive.rs"]
pub(crate) mod drive;
#[path = "../../src/demo/erp.rs"]
pub(crate) mod erp;
#[path = "../../src/demo/error.rs"]
mod error;
#[path = "../../src/demo/expected.rs"]
pub(crate) mod expected;
#[path = "../../src/figures.rs"]
mod figures;
#[path = "../../src/demo/live.rs"]
mod live;
#[path = "../../src/demo/mariadb.rs"]
mod mariadb;
#[path = "../../src/demo/private.rs"]
mod private;
#[path = "../../src/demo/process.rs"]
pub(crate) mod process;
#[path = "../../src/demo/server.rs"]
pub(crate) mod server;
#[path = "../../src/demo/setup.rs"]
pub(crate) mod setup;
#[path = "../../src/demo/traffic.rs"]
mod traffic;
#[path = "../../src/demo/warehouse.rs"]
mod warehouse;
