//! What a look at the server found, how bad it is, and what to do about it.

use std::fmt;

use syncline_schemas::ident::SourceId;

use crate::CaptureError;

/// The remedy where the log lacks what the source needs.
pub(crate) const COPY_AGAIN: &str = "have `syncline replay --reread` copy the tables again";

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// The source can be read, but not as the operator may expect.
    Warning,
    /// The source cannot be read.
    Error,
}

/// One thing that a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: a setting, a role, a table, the slot.
    pub object: String,
    /// What is the case.
    pub message: String,
    /// What to do about it.
    pub remedy: Remedy,
}

/// What to do about a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing.
    None,
    /// Something that a person has to decide or do outside the database.
    Advice(String),
    /// A statement for the DBA.
    Sql {
        /// The statement.
        apply: String,
        /// The statement that takes it back.
        undo: String,
        /// What has to follow, as in `then restart the server`.
        then: &'static str,
    },
}

impl Remedy {
    pub(crate) fn advice(text: impl Into<String>) -> Self {
        Self::Advice(text.into())
    }

    pub(crate) const fn sql(apply: String, undo: String) -> Self {
        Self::Sql { apply, undo, then: "" }
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Advice(text) => f.write_str(text),
            Self::Sql { apply, then: "", .. } => f.write_str(apply),
            Self::Sql { apply, then, .. } => write!(f, "{apply} {then}"),
        }
    }
}

/// Statements for the DBA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// What makes the source readable, with the least rights that do.
    pub apply: String,
    /// What takes it back.
    pub undo: String,
}

impl Script {
    /// What findings want done; `place` says where and by whom. Statements that a person has to complete are comments.
    pub(crate) fn of(source: &SourceId, place: &str, findings: &[Finding]) -> Self {
        let mut apply = format!("-- Syncline, source {source}: {place}\n");
        let mut undo = format!("-- Syncline, source {source}: takes the setup back; stop the daemon first\n");
        for finding in findings.iter().filter(|finding| finding.severity > Severity::Info) {
            apply.push_str(&format!("-- {}: {}\n", finding.object, comment(&finding.message)));
            match &finding.remedy {
                Remedy::None => {}
                Remedy::Advice(text) => apply.push_str(&format!("-- {}\n", comment(text))),
                Remedy::Sql { apply: sql, undo: back, then } => {
                    apply.push_str(&format!("{sql}{}{then}\n", if then.is_empty() { "" } else { " -- " }));
                    undo.push_str(&format!("{back}\n"));
                }
            }
        }
        Self { apply, undo }
    }
}

/// A text that stays within its comment.
fn comment(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Refuses to go on with an error among the findings; the others are counted in the message.
pub(crate) fn ensure_fit(source: &SourceId, findings: &[Finding]) -> Result<(), CaptureError> {
    let mut errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    let Some(first) = errors.next() else { return Ok(()) };
    let more = match errors.count() {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    Err(CaptureError::Unfit {
        source_id: source.clone(),
        object: first.object.clone(),
        reason: first.message.clone(),
        remedy: format!("{}{more}", first.remedy),
    })
}
