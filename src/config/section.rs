//! One table of the configuration: typed look-ups that note which keys were asked for, and a fault for every other.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use syncline_schemas::secret::{Secret, SecretRef};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Faults;

/// A parsed file that knows its lines.
pub(super) struct Document<'t> {
    text: &'t str,
    root: Spanned<DeTable<'t>>,
}

impl<'t> Document<'t> {
    /// Parses the file; syntax faults are all reported.
    pub(super) fn parse(text: &'t str, faults: &mut Faults) -> Option<Self> {
        let (root, errors) = DeTable::parse_recoverable(text);
        let document = Self { text, root };
        for error in &errors {
            let line = error.span().map_or(1, |span| document.line(span.start));
            faults.add(line, error.message().to_owned());
        }
        errors.is_empty().then_some(document)
    }

    /// The line of a byte, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.text.as_bytes()[..at.min(self.text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
    }

    pub(super) fn root(&self) -> Section<'_> {
        Section { document: self, path: String::new(), at: 0, table: self.root.get_ref(), asked: BTreeSet::new() }
    }
}

/// A table of the file.
pub(super) struct Section<'d> {
    document: &'d Document<'d>,
    path: String,
    at: usize,
    table: &'d DeTable<'d>,
    asked: BTreeSet<String>,
}

/// A value and where it stands.
pub(super) struct Found<T> {
    pub(super) value: T,
    /// Byte in the file.
    pub(super) at: usize,
    line: usize,
    path: String,
}

impl<T> Found<T> {
    /// The same place with what its value means.
    pub(super) fn map<U>(self, value: U) -> Found<U> {
        Found { value, at: self.at, line: self.line, path: self.path }
    }

    /// Says what is wrong with the value.
    pub(super) fn fault(&self, faults: &mut Faults, reason: impl AsRef<str>) {
        faults.add(self.line, format!("{} {}", self.path, reason.as_ref()));
    }
}

impl<'d> Section<'d> {
    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn value(&mut self, key: &str) -> Option<(&'d DeValue<'d>, Range<usize>)> {
        self.asked.insert(key.to_owned());
        let (_, value) = self.table.iter().find(|(name, _)| name.get_ref() == key)?;
        Some((value.get_ref(), value.span()))
    }

    fn found<T>(&self, key: &str, at: usize, value: T) -> Found<T> {
        Found { value, at, line: self.document.line(at), path: self.path_of(key) }
    }

    /// Says what is wrong with the section as a whole.
    pub(super) fn fault(&self, faults: &mut Faults, reason: impl AsRef<str>) {
        faults.add(self.document.line(self.at), format!("{} {}", self.path, reason.as_ref()));
    }

    /// Says what is wrong with the value of a key, or with the section where the key is not there.
    pub(super) fn fault_of(&self, key: &str, faults: &mut Faults, reason: &str) {
        match self.table.iter().find(|(name, _)| name.get_ref() == key) {
            Some((_, value)) => self.found(key, value.span().start, ()).fault(faults, reason),
            None => self.fault(faults, format!("{key} {reason}")),
        }
    }

    /// Says why a key that is there is none of this section: it is of use in another kind of it.
    pub(super) fn refuse(&mut self, key: &str, faults: &mut Faults, reason: &str) {
        if self.has(key) {
            self.asked.insert(key.to_owned());
            self.fault_of(key, faults, reason);
        }
    }

    fn typed<T>(
        &mut self,
        key: &str,
        wanted: &str,
        read: impl FnOnce(&'d DeValue<'d>) -> Option<T>,
        faults: &mut Faults,
    ) -> Option<Found<T>> {
        let (value, span) = self.value(key)?;
        let read = read(value);
        if read.is_none() {
            let wrong = self.found(key, span.start, ());
            wrong.fault(faults, format!("is a {}; write {wanted}", value.type_str()));
        }
        read.map(|read| self.found(key, span.start, read))
    }

    pub(super) fn text(&mut self, key: &str, faults: &mut Faults) -> Option<Found<String>> {
        self.typed(key, "a string", |value| value.as_str().map(str::to_owned), faults)
    }

    pub(super) fn required_text(&mut self, key: &str, faults: &mut Faults) -> Option<Found<String>> {
        if !self.has(key) {
            self.asked.insert(key.to_owned());
            self.fault(faults, format!("needs {key}"));
            return None;
        }
        self.text(key, faults)
    }

    /// A secret by reference that has to be there.
    pub(super) fn required_secret(&mut self, key: &str, folder: &Path, faults: &mut Faults) -> Option<SecretRef> {
        if !self.has(key) {
            self.asked.insert(key.to_owned());
            self.fault(faults, format!("needs {key}"));
            return None;
        }
        self.secret_ref(key, folder, faults)
    }

    /// True where the key is there, whatever its type.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.iter().any(|(name, _)| name.get_ref() == key)
    }

    pub(super) fn texts(&mut self, key: &str, faults: &mut Faults) -> Option<Found<Vec<String>>> {
        let read = |value: &DeValue<'_>| {
            let items = value.as_array()?.iter();
            items.map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
        };
        self.typed(key, "a list of strings, as in [\"a\", \"b\"]", read, faults)
    }

    pub(super) fn flag(&mut self, key: &str, faults: &mut Faults) -> Option<bool> {
        Some(self.typed(key, "true or false", DeValue::as_bool, faults)?.value)
    }

    /// A whole number of at least one.
    pub(super) fn count(&mut self, key: &str, faults: &mut Faults) -> Option<usize> {
        let read = |value: &DeValue<'_>| {
            let number = value.as_integer()?;
            let count = usize::from_str_radix(number.as_str(), number.radix()).ok()?;
            (count > 0).then_some(count)
        };
        Some(self.typed(key, "a whole number above 0", read, faults)?.value)
    }

    /// `500ms`, `10s`, `5m`, `24h`, `7d`.
    pub(super) fn duration(&mut self, key: &str, faults: &mut Faults) -> Option<Duration> {
        let read = |value: &DeValue<'_>| parse_duration(value.as_str()?);
        Some(self.typed(key, "a duration such as \"500ms\", \"10s\", \"5m\", \"24h\" or \"7d\"", read, faults)?.value)
    }

    /// `512MiB`, `10GiB`, `1TiB`.
    pub(super) fn size(&mut self, key: &str, faults: &mut Faults) -> Option<u64> {
        let read = |value: &DeValue<'_>| parse_size(value.as_str()?);
        Some(self.typed(key, "a size such as \"512MiB\", \"10GiB\" or \"1TiB\"", read, faults)?.value)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)], faults: &mut Faults) -> Option<T> {
        let text = self.text(key, faults)?;
        let chosen = choices.iter().find(|(word, _)| *word == text.value).map(|(_, value)| *value);
        if chosen.is_none() {
            let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            text.fault(faults, format!("is \"{}\"; it is one of {}", text.value, words.join(", ")));
        }
        chosen
    }

    /// A secret by reference, read now.
    pub(super) fn secret(&mut self, key: &str, folder: &Path, faults: &mut Faults) -> Option<String> {
        self.secret_ref(key, folder, faults)?.read().ok().map(|secret| secret.reveal().to_owned())
    }

    /// A secret by reference: `{ env = "NAME" }` or `{ file = "path" }`, which can be read now.
    pub(super) fn secret_ref(&mut self, key: &str, folder: &Path, faults: &mut Faults) -> Option<SecretRef> {
        let (value, span) = self.value(key)?;
        let wrong = self.found(key, span.start, ());
        let Some(table) = value.as_table() else {
            wrong.fault(faults, "is given by reference: { env = \"NAME\" } or { file = \"path\" }");
            return None;
        };
        let mut reference = self.child(key, span.start, table);
        let env = reference.text("env", faults);
        let file = reference.text("file", faults);
        reference.finish(faults);
        match (env, file) {
            (Some(name), None) => std::env::var(&name.value)
                .map(|text| SecretRef::Given(Secret::new(text)))
                .map_err(|_| name.fault(faults, format!("names {}, which is not set in the environment", name.value)))
                .ok(),
            (None, Some(file)) => {
                let secret = SecretRef::File(folder.join(&file.value));
                let read = secret.read();
                read.map_err(|error| file.fault(faults, format!("names {}: {error}", file.value))).ok().map(|_| secret)
            }
            _ => {
                wrong.fault(faults, "is one of { env = \"NAME\" } and { file = \"path\" }");
                None
            }
        }
    }

    fn child(&self, key: &str, at: usize, table: &'d DeTable<'d>) -> Section<'d> {
        Section { document: self.document, path: self.path_of(key), at, table, asked: BTreeSet::new() }
    }

    /// A sub-table.
    pub(super) fn section(&mut self, key: &str, faults: &mut Faults) -> Option<Section<'d>> {
        let found = self.typed(key, "a section", DeValue::as_table, faults)?;
        Some(self.child(key, found.at, found.value))
    }

    /// All sub-tables of a sub-table by name, in the file's order.
    pub(super) fn sections(&mut self, key: &str, faults: &mut Faults) -> Vec<(String, Section<'d>)> {
        let Some(mut all) = self.section(key, faults) else { return Vec::new() };
        let mut names: Vec<(usize, String)> =
            all.table.iter().map(|(name, _)| (name.span().start, name.get_ref().to_string())).collect();
        names.sort();
        names.into_iter().filter_map(|(_, name)| all.section(&name, faults).map(|section| (name, section))).collect()
    }

    /// Its own sub-tables by name, in the file's order.
    pub(super) fn tables(&mut self) -> Vec<(String, Section<'d>)> {
        let mut tables: Vec<_> = self
            .table
            .iter()
            .filter_map(|(name, value)| {
                Some((name.span().start, name.get_ref().to_string(), value.get_ref().as_table()?))
            })
            .collect();
        tables.sort_by_key(|(at, ..)| *at);
        self.asked.extend(tables.iter().map(|(_, name, _)| name.clone()));
        tables.into_iter().map(|(at, name, table)| (name.clone(), self.child(&name, at, table))).collect()
    }

    /// What stands in it, in the file's order.
    pub(super) fn keys(&self) -> Vec<String> {
        let mut keys: Vec<_> =
            self.table.iter().map(|(name, _)| (name.span().start, name.get_ref().to_string())).collect();
        keys.sort();
        keys.into_iter().map(|(_, name)| name).collect()
    }

    /// Refuses what nobody asked for.
    pub(super) fn finish(self, faults: &mut Faults) {
        for (name, _) in self.table.iter().filter(|(name, _)| !self.asked.contains(name.get_ref().as_ref())) {
            let key = name.get_ref();
            let known: Vec<&str> = self.asked.iter().map(String::as_str).collect();
            let hint = nearest(key, &known)
                .map_or_else(|| format!("known here: {}", known.join(", ")), |near| format!("did you mean {near}?"));
            let line = self.document.line(name.span().start);
            faults.add(line, format!("{}: unknown key; {hint}", self.path_of(key)));
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
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(ms)?))
}

fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let bytes = match &text[digits..] {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(bytes)
}

/// The known word within two typing errors.
fn nearest<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    known
        .iter()
        .map(|&other| (edits(word, other), other))
        .filter(|(edits, _)| *edits <= 2)
        .min()
        .map(|(_, other)| other)
}

/// Levenshtein distance.
fn edits(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.bytes().enumerate() {
            let replaced = diagonal + usize::from(l != r);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("24h"), Some(Duration::from_secs(86_400)));
        assert_eq!(parse_duration("10"), None);
        assert_eq!(parse_duration("s"), None);
        assert_eq!(parse_duration("1 s"), None);
    }

    #[test]
    fn sizes_need_a_unit_that_leaves_no_doubt() {
        assert_eq!(parse_size("512MiB"), Some(512 << 20));
        assert_eq!(parse_size("1TiB"), Some(1 << 40));
        for text in ["10", "10GB", "GiB", "99999999999TiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn a_typing_error_finds_its_word() {
        assert_eq!(nearest("slott", &["slot", "tables", "url"]), Some("slot"));
        assert_eq!(nearest("qwerty", &["slot", "tables"]), None);
    }
}
