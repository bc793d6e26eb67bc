//! A profile's TOML, read by hand: serde stops at the first fault, and a profile is told all of them at once, each with its
//! line. Whatever nobody asked for is a fault as well: a mistyped setting must never silently have no effect.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::planning::Rate;

/// Everything that is wrong with a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileFaults {
    /// The file, or the name of a shipped profile.
    pub file: String,
    /// Line, from 1, and what is wrong and what would be right.
    pub faults: Vec<(usize, String)>,
}

impl fmt::Display for ProfileFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (line, fault)) in self.faults.iter().enumerate() {
            let end = if i == 0 { "" } else { "\n" };
            write!(f, "{end}{}:{line}: {fault}", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for ProfileFaults {}

/// Faults as they are found.
pub(super) type Faults = Vec<(usize, String)>;

/// A parsed file that knows its lines.
pub(super) struct Document<'t> {
    text: &'t str,
    root: Spanned<DeTable<'t>>,
}

impl<'t> Document<'t> {
    pub(super) fn parse(text: &'t str, faults: &mut Faults) -> Option<Self> {
        let (root, errors) = DeTable::parse_recoverable(text);
        let document = Self { text, root };
        for error in &errors {
            let line = error.span().map_or(1, |span| document.line(span.start));
            faults.push((line, error.message().to_owned()));
        }
        errors.is_empty().then_some(document)
    }

    fn line(&self, at: usize) -> usize {
        self.text.as_bytes()[..at.min(self.text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
    }

    pub(super) fn root(&self) -> Table<'_> {
        Table { document: self, path: String::new(), at: 0, table: self.root.get_ref(), asked: BTreeSet::new() }
    }
}

/// A table of the file.
pub(super) struct Table<'d> {
    document: &'d Document<'d>,
    path: String,
    at: usize,
    table: &'d DeTable<'d>,
    asked: BTreeSet<String>,
}

/// A value, its line and its whole name.
#[derive(Debug, Clone)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) line: usize,
    pub(super) path: String,
}

impl<T> Found<T> {
    pub(super) fn fault(&self, faults: &mut Faults, reason: impl AsRef<str>) {
        faults.push((self.line, format!("{} {}", self.path, reason.as_ref())));
    }
}

impl<'d> Table<'d> {
    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn fault(&self, faults: &mut Faults, reason: impl AsRef<str>) {
        let path = if self.path.is_empty() { "the profile" } else { &self.path };
        faults.push((self.document.line(self.at), format!("{path} {}", reason.as_ref())));
    }

    /// Its line and its name.
    pub(super) fn place(&self) -> (usize, String) {
        (self.document.line(self.at), self.path.clone())
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.iter().any(|(name, _)| name.get_ref() == key)
    }

    fn typed<T>(
        &mut self,
        key: &str,
        wanted: &str,
        read: impl FnOnce(&'d DeValue<'d>) -> Option<T>,
        faults: &mut Faults,
    ) -> Option<Found<T>> {
        self.asked.insert(key.to_owned());
        let (_, value) = self.table.iter().find(|(name, _)| name.get_ref() == key)?;
        let (line, path) = (self.document.line(value.span().start), self.path_of(key));
        let read = read(value.get_ref());
        if read.is_none() {
            faults.push((line, format!("{path} is a {}; write {wanted}", value.get_ref().type_str())));
        }
        read.map(|value| Found { value, line, path })
    }

    pub(super) fn text(&mut self, key: &str, faults: &mut Faults) -> Option<Found<String>> {
        self.typed(key, "a string", |value| value.as_str().map(str::to_owned), faults)
    }

    pub(super) fn required(&mut self, key: &str, faults: &mut Faults) -> Option<Found<String>> {
        if !self.has(key) {
            self.asked.insert(key.to_owned());
            self.fault(faults, format!("needs {key}"));
            return None;
        }
        self.text(key, faults)
    }

    pub(super) fn texts(&mut self, key: &str, faults: &mut Faults) -> Option<Found<Vec<String>>> {
        let read = |value: &DeValue<'_>| {
            value.as_array()?.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
        };
        self.typed(key, "a list of strings, as in [\"a\", \"b\"]", read, faults)
    }

    /// A whole number of at least one.
    pub(super) fn count(&mut self, key: &str, faults: &mut Faults) -> Option<usize> {
        let read = |value: &DeValue<'_>| {
            let number = value.as_integer()?;
            usize::from_str_radix(number.as_str(), number.radix()).ok().filter(|count| *count > 0)
        };
        Some(self.typed(key, "a whole number above 0", read, faults)?.value)
    }

    pub(super) fn duration(&mut self, key: &str, faults: &mut Faults) -> Option<Duration> {
        let read = |value: &DeValue<'_>| parse_duration(value.as_str()?);
        Some(self.typed(key, "a duration such as \"500ms\", \"15s\" or \"30m\"", read, faults)?.value)
    }

    pub(super) fn rate(&mut self, key: &str, faults: &mut Faults) -> Option<Rate> {
        let read = |value: &DeValue<'_>| value.as_str()?.parse().ok();
        Some(self.typed(key, "requests per s, min or h, as in \"5/s\"", read, faults)?.value)
    }

    pub(super) fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)], faults: &mut Faults) -> Option<T> {
        let text = self.text(key, faults)?;
        let chosen = choices.iter().find(|(word, _)| *word == text.value).map(|(_, value)| *value);
        if chosen.is_none() {
            let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            text.fault(faults, format!("is \"{}\"; it is one of {}", text.value, words.join(", ")));
        }
        chosen
    }

    pub(super) fn table(&mut self, key: &str, faults: &mut Faults) -> Option<Table<'d>> {
        let document = self.document;
        let found = self.typed(key, "a table", DeValue::as_table, faults)?;
        let at = self.table.iter().find(|(name, _)| name.get_ref() == key).map_or(0, |(_, value)| value.span().start);
        Some(Table { document, path: found.path, at, table: found.value, asked: BTreeSet::new() })
    }

    /// What stands in it by name, in the file's order.
    pub(super) fn keys(&self) -> Vec<String> {
        let mut keys: Vec<_> =
            self.table.iter().map(|(name, _)| (name.span().start, name.get_ref().to_string())).collect();
        keys.sort();
        keys.into_iter().map(|(_, name)| name).collect()
    }

    /// Its sub-tables by name, in the file's order.
    pub(super) fn tables(&mut self, key: &str, faults: &mut Faults) -> Vec<(String, Table<'d>)> {
        let Some(mut all) = self.table(key, faults) else { return Vec::new() };
        let names = all.keys();
        names.into_iter().filter_map(|name| all.table(&name, faults).map(|table| (name, table))).collect()
    }

    /// Refuses what nobody asked for.
    pub(super) fn finish(self, faults: &mut Faults) {
        for (name, _) in self.table.iter().filter(|(name, _)| !self.asked.contains(name.get_ref().as_ref())) {
            let known: Vec<&str> = self.asked.iter().map(String::as_str).collect();
            let line = self.document.line(name.span().start);
            faults.push((
                line,
                format!("{}: unknown key; known here: {}", self.path_of(name.get_ref()), known.join(", ")),
            ));
        }
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(ms)?))
}
