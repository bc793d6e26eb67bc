//! The planning sink against the reference receiver, over real HTTP.

#[path = "planning/auth.rs"]
mod auth;
#[path = "planning/check.rs"]
mod check;
#[path = "planning/conformance.rs"]
mod conformance;
#[path = "planning/contract.rs"]
mod contract;
#[path = "planning/formats.rs"]
mod formats;
#[path = "planning/growing.rs"]
mod growing;
#[path = "planning/jobs.rs"]
mod jobs;
#[path = "planning/mangle.rs"]
mod mangle;
#[path = "planning/openapi.rs"]
mod openapi;
#[path = "planning/outbox.rs"]
mod outbox;
#[path = "planning/outputs.rs"]
mod outputs;
#[path = "planning/poison.rs"]
mod poison;
#[path = "planning/priority.rs"]
mod priority;
#[path = "planning/recovery.rs"]
mod recovery;
#[path = "planning/scripted.rs"]
mod scripted;
#[path = "planning/storm.rs"]
mod storm;
#[path = "planning/target.rs"]
mod target;
