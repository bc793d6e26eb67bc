//! The profile sink against strict receivers of the dialects that it speaks, over real HTTP.

#[path = "profile/cloudevents.rs"]
mod cloudevents;
#[path = "profile/files.rs"]
mod files;
#[path = "profile/frepple.rs"]
mod frepple;
#[path = "profile/frepple_target.rs"]
mod frepple_target;
#[path = "profile/ibp.rs"]
mod ibp;
#[path = "profile/outbox.rs"]
mod outbox;
#[path = "profile/relex.rs"]
mod relex;
#[path = "profile/server.rs"]
mod server;
