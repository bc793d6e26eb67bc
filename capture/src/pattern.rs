//! Which tables are read: `public.*`, `sales.order_*`, `!public.audit_*`.
//!
//! Names match as the server stores them, case included, with `*` for any run of characters and `?` for one. A table is
//! read if a pattern includes it and none with `!` excludes it. System schemas never match.

use std::fmt;
use std::str::FromStr;

use syncline_schemas::ident::TableId;

/// A pattern that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// There is no schema in it.
    #[error("table pattern {0:?} has no schema; write schema.table, as in public.*")]
    NoSchema(String),
    /// Nothing is included.
    #[error("tables includes nothing; write at least one pattern without !, as in public.*")]
    Empty,
    /// No message is included.
    #[error("messages includes nothing; write at least one prefix without !, as in orders.*")]
    NoPrefix,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    text: String,
    schema: String,
    name: String,
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let no_schema = || PatternError::NoSchema(text.to_owned());
        let (schema, name) = text.split_once('.').ok_or_else(no_schema)?;
        if schema.is_empty() || name.is_empty() {
            return Err(no_schema());
        }
        Ok(Self { text: text.to_owned(), schema: schema.to_owned(), name: name.to_owned() })
    }
}

impl Pattern {
    fn matches(&self, table: &TableId) -> bool {
        glob(self.schema.as_bytes(), table.schema.as_bytes()) && glob(self.name.as_bytes(), table.name.as_bytes())
    }

    fn is_literal(&self) -> bool {
        !self.text.contains(['*', '?'])
    }
}

/// The include and exclude patterns of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePatterns {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

/// As in the configuration: `public.*, !public.audit`.
impl fmt::Display for TablePatterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let included = self.include.iter().map(|pattern| pattern.text.clone());
        let excluded = self.exclude.iter().map(|pattern| format!("!{}", pattern.text));
        f.write_str(&included.chain(excluded).collect::<Vec<_>>().join(", "))
    }
}

impl TablePatterns {
    /// Reads the patterns as configured.
    ///
    /// # Errors
    /// [`PatternError`] on a pattern without a schema, or when nothing is included.
    pub fn parse<S: AsRef<str>>(patterns: &[S]) -> Result<Self, PatternError> {
        let (mut include, mut exclude) = (Vec::new(), Vec::new());
        for pattern in patterns {
            match pattern.as_ref().strip_prefix('!') {
                Some(rest) => exclude.push(rest.parse()?),
                None => include.push(pattern.as_ref().parse()?),
            }
        }
        if include.is_empty() {
            return Err(PatternError::Empty);
        }
        Ok(Self { include, exclude })
    }

    /// True where the table of a PostgreSQL server is read.
    #[must_use]
    pub fn matches(&self, table: &TableId) -> bool {
        let system = table.schema.starts_with("pg_") || &*table.schema == "information_schema";
        !system && self.select(table)
    }

    /// True where a pattern includes the table and none excludes it, whatever schemas are the server's own.
    pub(crate) fn select(&self, table: &TableId) -> bool {
        self.include.iter().any(|pattern| pattern.matches(table))
            && !self.exclude.iter().any(|pattern| pattern.matches(table))
    }

    /// True where a pattern includes tables of a schema.
    pub(crate) fn select_some_of(&self, schema: &str) -> bool {
        self.include.iter().any(|pattern| glob(pattern.schema.as_bytes(), schema.as_bytes()))
    }

    /// What is included, as patterns of schema and name.
    pub(crate) fn included(&self) -> impl Iterator<Item = (&str, &str)> {
        self.include.iter().map(|pattern| (pattern.schema.as_str(), pattern.name.as_str()))
    }

    /// Excluded tables that are named without a wildcard.
    pub(crate) fn excluded_by_name(&self) -> impl Iterator<Item = &str> {
        self.exclude.iter().filter(|pattern| pattern.is_literal()).map(|pattern| pattern.text.as_str())
    }

    /// Included tables that are named without a wildcard and are not among `tables`: they do not exist.
    pub(crate) fn missing<'a>(&'a self, tables: &[TableId]) -> Vec<&'a str> {
        let absent = |pattern: &&Pattern| !tables.iter().any(|table| pattern.matches(table));
        self.include.iter().filter(|pattern| pattern.is_literal()).filter(absent).map(|p| p.text.as_str()).collect()
    }
}

/// Which messages of applications are taken, by what they begin with: `orders.*`, `!orders.debug`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefixes {
    include: Vec<String>,
    exclude: Vec<String>,
}

impl Prefixes {
    /// Reads the patterns as configured.
    ///
    /// # Errors
    /// [`PatternError::NoPrefix`] when nothing is included.
    pub fn parse<S: AsRef<str>>(patterns: &[S]) -> Result<Self, PatternError> {
        let (exclude, include): (Vec<&str>, Vec<&str>) =
            patterns.iter().map(AsRef::as_ref).partition(|pattern| pattern.starts_with('!'));
        if include.is_empty() {
            return Err(PatternError::NoPrefix);
        }
        let exclude = exclude.into_iter().map(|pattern| pattern[1..].to_owned()).collect();
        Ok(Self { include: include.into_iter().map(str::to_owned).collect(), exclude })
    }

    pub(crate) fn matches(&self, prefix: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|it| glob(it.as_bytes(), prefix.as_bytes()));
        any(&self.include) && !any(&self.exclude)
    }
}

/// Matches with `*` and `?`; linear in the text for each star, no recursion.
pub(crate) fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(&wanted) if wanted == b'?' || wanted == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((after_star, from)) => {
                    retry = Some((after_star, from + 1));
                    p = after_star;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> TablePatterns {
        TablePatterns::parse(texts).expect("patterns")
    }

    #[test]
    fn an_excluded_table_is_not_read_and_case_matters() {
        let tables = patterns(&["public.*", "sales.order_?", "!public.audit_*"]);
        let matches = |schema, name| tables.matches(&TableId::new(schema, name));
        assert!(matches("public", "Stock-Quant") && matches("sales", "order_1"));
        assert!(!matches("public", "audit_log") && !matches("sales", "order_12") && !matches("Public", "x"));
        assert!(!patterns(&["*.*"]).matches(&TableId::new("pg_catalog", "pg_class")));
    }

    #[test]
    fn a_literal_table_that_does_not_exist_is_named() {
        let tables = patterns(&["public.*", "sales.orders"]);
        assert_eq!(tables.missing(&[TableId::new("public", "a")]), ["sales.orders"]);
        let excluded = patterns(&["public.*", "!public.log_*", "!public.old"]);
        assert_eq!(excluded.excluded_by_name().collect::<Vec<_>>(), ["public.old"]);
    }

    #[test]
    fn a_pattern_without_schema_is_refused() {
        assert_eq!(TablePatterns::parse(&["orders"]), Err(PatternError::NoSchema("orders".into())));
        assert_eq!(TablePatterns::parse(&["!a.b"]), Err(PatternError::Empty));
    }

    #[test]
    fn stars_backtrack() {
        for (pattern, text, wanted) in [
            ("a*b*c", "axxbyyc", true),
            ("a*bc", "abcbc", true),
            ("*", "", true),
            ("a?", "a", false),
            ("*x", "xy", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), wanted, "{pattern} {text}");
        }
    }
}
