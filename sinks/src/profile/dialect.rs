//! The dialects: one module each, and here what all of them are asked.
//!
//! [`Speech`] is what a profile says about its dialect; [`Voice`] is the dialect at work. A dialect is given rows that are
//! computed, dealt by their key and in version order, and returns once they are durable at the target or told as refused.

use std::collections::BTreeMap;

use async_trait::async_trait;
use syncline_schemas::entity::Entity;

use super::accept_errors::{self, Confirm};
use super::cloudevents::{self, Events};
use super::definition::{Delete, Flow};
use super::document::{Faults, Table};
use super::file_drop::{self, Files};
use super::frepple;
use super::odata_tx::{self, Transactions};
use super::sheet::{Row, Sheet};
use crate::{Known, Recalled, SinkError, Span, Written};

/// The profiles that are part of the program, by name.
pub(super) const SHIPPED: &[(&str, &str)] = &[
    ("frepple", include_str!("shipped/frepple.toml")),
    ("relex", include_str!("shipped/relex.toml")),
    ("cloudevents", include_str!("shipped/cloudevents.toml")),
    ("ibp", include_str!("shipped/ibp.toml")),
    ("files", include_str!("shipped/files.toml")),
];

/// What a profile says about its dialect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Speech {
    Frepple,
    AcceptErrors(Confirm),
    CloudEvents(Events),
    FileDrop(Files),
    ODataTx(Transactions),
}

#[derive(Clone, Copy)]
enum Name {
    Frepple,
    AcceptErrors,
    CloudEvents,
    FileDrop,
    ODataTx,
}

const NAMES: [(&str, Name); 5] = [
    ("frepple", Name::Frepple),
    ("accept_errors", Name::AcceptErrors),
    ("cloudevents", Name::CloudEvents),
    ("file_drop", Name::FileDrop),
    ("odata_tx", Name::ODataTx),
];

impl Speech {
    pub(super) fn read(root: &mut Table<'_>, faults: &mut Faults) -> Option<Self> {
        if !root.has("dialect") {
            root.required("dialect", faults);
            return None;
        }
        match root.choice("dialect", &NAMES, faults)? {
            Name::Frepple => Some(Self::Frepple),
            Name::AcceptErrors => Confirm::read(root, faults).map(Self::AcceptErrors),
            Name::CloudEvents => Some(Self::CloudEvents(Events::read(root, faults))),
            Name::ODataTx => Transactions::read(root, faults).map(Self::ODataTx),
            Name::FileDrop => Some(Self::FileDrop(Files::read(root, faults))),
        }
    }

    /// True where rows go into files.
    pub(super) const fn writes_files(&self) -> bool {
        matches!(self, Self::FileDrop(_))
    }

    /// True where a flow may leave out what its rows look like.
    pub(super) const fn takes_all_fields(&self) -> bool {
        matches!(self, Self::CloudEvents(_) | Self::FileDrop(_))
    }

    /// What can become of a deleted row.
    pub(super) const fn deletes(&self) -> &'static [&'static str] {
        match self {
            Self::Frepple => &["delete", "set_zero", "keep"],
            Self::AcceptErrors(_) | Self::ODataTx(_) => &["set_zero", "keep"],
            Self::CloudEvents(_) | Self::FileDrop(_) => &["delete", "keep"],
        }
    }

    /// True where a row is deleted at the path that its key ends.
    pub(super) const fn deletes_by_path(&self) -> bool {
        matches!(self, Self::Frepple)
    }

    /// What becomes of it where nobody says.
    pub(super) const fn delete_by_itself(&self) -> Option<Delete> {
        match self {
            Self::Frepple | Self::AcceptErrors(_) | Self::ODataTx(_) => None,
            Self::CloudEvents(_) | Self::FileDrop(_) => Some(Delete::Remove),
        }
    }

    /// Reads what a flow says to its dialect; gives where its rows go.
    pub(super) fn read_flow(
        &self,
        table: &mut Table<'_>,
        entity: &Entity,
        words: &mut BTreeMap<&'static str, String>,
        faults: &mut Faults,
    ) -> Option<String> {
        match self {
            Self::Frepple => frepple::read_flow(table, entity, words, faults),
            Self::AcceptErrors(_) => accept_errors::read_flow(table, entity, words, faults),
            Self::CloudEvents(_) => cloudevents::read_flow(table, entity, words, faults),
            Self::ODataTx(_) => odata_tx::read_flow(table, entity, words, faults),
            Self::FileDrop(_) => file_drop::read_flow(table, entity, words, faults),
        }
    }
}

/// A path below the sink's url.
pub(super) fn path(table: &mut Table<'_>, faults: &mut Faults) -> Option<String> {
    let path = table.required("path", faults)?;
    if !path.value.starts_with('/') || path.value.contains(['?', '#']) {
        path.fault(faults, "is no path below the sink's url; it begins with / and has no query");
    }
    Some(path.value)
}

/// A dialect at work.
#[async_trait]
pub(super) trait Voice: Send {
    /// Takes up what is remembered, and asks the target what it holds where it can be asked.
    async fn recall(&mut self, known: &Known) -> Result<Recalled, SinkError>;

    /// A write of a span begins; `_again` where rows that were refused are sent once more.
    async fn begin(&mut self, _span: Span, _again: bool) -> Result<(), SinkError> {
        Ok(())
    }

    /// Delivers the rows of one flow; returns when they are durable there.
    async fn deliver(&mut self, sheet: &Sheet<'_>, lanes: Vec<Vec<Row>>) -> Result<Written, SinkError>;

    /// All rows of the span are delivered.
    async fn end(&mut self) -> Result<Written, SinkError>;

    /// Asks whether the target takes what is configured; delivers nothing.
    async fn check(&self, flows: &[Flow]) -> Result<(), SinkError>;
}
