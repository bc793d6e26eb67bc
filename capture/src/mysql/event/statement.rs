//! What a statement in the log does to tables: as much of SQL as tells harmless ones from those that change rows.
//!
//! Rows of tables come as rows, so a statement matters in three cases: it frames a transaction, it changes rows without
//! saying which (`TRUNCATE`, `DROP`, partitions), or it changes what a table is called. What a table's columns are is
//! said by the table's next description. A statement that begins with a word that is not listed stops the source.

/// A table as a statement names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    /// The statement's database where it says none.
    pub(crate) database: Option<String>,
    pub(crate) table: String,
}

/// What a statement does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Statement {
    Begin,
    Commit,
    /// What came in its transaction never was.
    Rollback,
    /// What came in its transaction since a savepoint never was.
    RollbackTo,
    Savepoint,
    /// A two-phase commit begins or goes on.
    XaBegin,
    /// The rows of a two-phase commit count, or never were.
    XaEnd,
    /// It changes rows, and says so in SQL instead of in rows.
    Rows,
    Truncate(Name),
    /// Tables that are there no more, or not as they were: dropped or replaced.
    Drop(Vec<Name>),
    DropDatabase(String),
    /// Tables and what they are called then.
    Rename(Vec<(Name, Name)>),
    /// Another shape, of which the next description tells; `moves_rows` where rows go or come with partitions or files.
    /// `others` are tables that it takes rows from or gives them to.
    Alter {
        table: Name,
        others: Vec<Name>,
        moves_rows: bool,
    },
    /// It changes no row of any table.
    Harmless,
    /// Nobody has listed the word that it begins with, or it goes on in another way than it may.
    Unknown,
}

/// Words that begin statements which change no rows and rename no table.
const HARMLESS: [&str; 17] = [
    "GRANT",
    "REVOKE",
    "SET",
    "FLUSH",
    "ANALYZE",
    "OPTIMIZE",
    "REPAIR",
    "CHECK",
    "CHECKSUM",
    "INSTALL",
    "UNINSTALL",
    "USE",
    "RESET",
    "KILL",
    "SHUTDOWN",
    "CACHE",
    "RELEASE",
];
/// Words that begin statements which change rows.
const ROWS: [&str; 9] = ["INSERT", "UPDATE", "DELETE", "REPLACE", "LOAD", "CALL", "WITH", "DO", "IMPORT"];

/// Reads a statement as far as needed.
pub(crate) fn read(text: &[u8]) -> Statement {
    let tokens = tokens(text);
    let mut words = Words(&tokens);
    let Some(first) = words.word() else {
        // Nothing but a comment.
        return if tokens.is_empty() { Statement::Harmless } else { Statement::Unknown };
    };
    match first.as_str() {
        "BEGIN" => Statement::Begin,
        "START" if words.is_next("TRANSACTION") => Statement::Begin,
        "COMMIT" => Statement::Commit,
        "ROLLBACK" if words.skip("WORK").is_next("TO") => Statement::RollbackTo,
        "ROLLBACK" => Statement::Rollback,
        "SAVEPOINT" => Statement::Savepoint,
        "XA" if ["COMMIT", "ROLLBACK"].iter().any(|word| words.is_next(word)) => Statement::XaEnd,
        "XA" if ["START", "BEGIN", "END", "PREPARE"].iter().any(|word| words.is_next(word)) => Statement::XaBegin,
        "TRUNCATE" => words.skip("TABLE").name().map_or(Statement::Unknown, Statement::Truncate),
        "DROP" => drop_of(words),
        "RENAME" => rename(words).unwrap_or(Statement::Unknown),
        "CREATE" => create(words),
        "ALTER" => alter(words),
        word if HARMLESS.contains(&word) => Statement::Harmless,
        word if ROWS.contains(&word) => Statement::Rows,
        _ => Statement::Unknown,
    }
}

fn drop_of(mut words: Words<'_>) -> Statement {
    if words.take("TEMPORARY") {
        return Statement::Harmless;
    }
    if words.take("DATABASE") || words.take("SCHEMA") {
        let name = words.skip("IF").skip("EXISTS").identifier();
        return name.map_or(Statement::Unknown, Statement::DropDatabase);
    }
    if !words.take("TABLE") && !words.take("TABLES") {
        return Statement::Harmless;
    }
    words.skip("IF").skip("EXISTS");
    let mut names = Vec::new();
    loop {
        let Some(name) = words.name() else { return Statement::Unknown };
        names.push(name);
        if !words.take_mark(b',') {
            return Statement::Drop(names);
        }
    }
}

fn rename(mut words: Words<'_>) -> Option<Statement> {
    if !words.take("TABLE") && !words.take("TABLES") {
        // A user, for one.
        return Some(Statement::Harmless);
    }
    words.skip("IF").skip("EXISTS");
    let mut names = Vec::new();
    loop {
        let from = words.name()?;
        if words.take("WAIT") {
            words.any();
        }
        words.skip("NOWAIT");
        if !words.take("TO") {
            return None;
        }
        names.push((from, words.name()?));
        if !words.take_mark(b',') {
            return Some(Statement::Rename(names));
        }
    }
}

fn create(mut words: Words<'_>) -> Statement {
    let replaces = words.take("OR") && words.take("REPLACE");
    if words.take("TEMPORARY") || !words.take("TABLE") || !replaces {
        return Statement::Harmless;
    }
    words.name().map_or(Statement::Unknown, |name| Statement::Drop(vec![name]))
}

fn alter(mut words: Words<'_>) -> Statement {
    words.skip("ONLINE").skip("OFFLINE").skip("IGNORE");
    if !words.take("TABLE") {
        return Statement::Harmless;
    }
    let Some(table) = words.skip("IF").skip("EXISTS").name() else { return Statement::Unknown };
    let (mut depth, mut moves_rows, mut others) = (0_u32, false, Vec::new());
    while let Some(token) = words.any() {
        match token {
            Token::Mark(b'(') => depth += 1,
            Token::Mark(b')') => depth = depth.saturating_sub(1),
            Token::Word(word) if depth == 0 => match word.to_ascii_uppercase().as_str() {
                "TRUNCATE" | "EXCHANGE" | "IMPORT" | "DISCARD" | "CONVERT" if words.has_partition() => {
                    moves_rows = true
                }
                "DROP" if words.is_next("PARTITION") => moves_rows = true,
                // EXCHANGE PARTITION p WITH TABLE t; CONVERT TABLE t TO PARTITION p.
                "WITH" | "CONVERT" if words.take("TABLE") => {
                    let Some(other) = words.name() else { return Statement::Unknown };
                    others.push(other);
                    moves_rows = true;
                }
                "RENAME" if !["COLUMN", "INDEX", "KEY"].iter().any(|part| words.is_next(part)) => {
                    let to = words.skip("TO").skip("AS").name();
                    return to.map_or(Statement::Unknown, |to| Statement::Rename(vec![(table, to)]));
                }
                _ => {}
            },
            _ => {}
        }
    }
    Statement::Alter { table, others, moves_rows }
}

/// A piece of SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A keyword or a name without quotes.
    Word(String),
    /// A name in quotes.
    Quoted(String),
    Mark(u8),
    /// A text or a number.
    Literal,
}

/// What is left of a statement.
struct Words<'t>(&'t [Token]);

impl<'t> Words<'t> {
    fn any(&mut self) -> Option<&'t Token> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// The next word, in capitals.
    fn word(&mut self) -> Option<String> {
        match self.0.split_first()? {
            (Token::Word(word), rest) => {
                self.0 = rest;
                Some(word.to_ascii_uppercase())
            }
            _ => None,
        }
    }

    fn is_next(&self, wanted: &str) -> bool {
        matches!(self.0.first(), Some(Token::Word(word)) if word.eq_ignore_ascii_case(wanted))
    }

    fn has_partition(&self) -> bool {
        self.is_next("PARTITION") || self.is_next("TABLESPACE")
    }

    fn take(&mut self, wanted: &str) -> bool {
        let is_next = self.is_next(wanted);
        if is_next {
            self.0 = &self.0[1..];
        }
        is_next
    }

    fn skip(&mut self, wanted: &str) -> &mut Self {
        self.take(wanted);
        self
    }

    fn take_mark(&mut self, mark: u8) -> bool {
        let is_next = self.0.first() == Some(&Token::Mark(mark));
        if is_next {
            self.0 = &self.0[1..];
        }
        is_next
    }

    fn identifier(&mut self) -> Option<String> {
        match self.any()? {
            Token::Word(name) | Token::Quoted(name) => Some(name.clone()),
            Token::Mark(_) | Token::Literal => None,
        }
    }

    fn name(&mut self) -> Option<Name> {
        let first = self.identifier()?;
        if !self.take_mark(b'.') {
            return Some(Name { database: None, table: first });
        }
        Some(Name { database: Some(first), table: self.identifier()? })
    }
}

/// Takes a statement apart. What stands in comments for the server alone (`/*!`, `/*M!`) is a part of it.
fn tokens(text: &[u8]) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let rest = &text[at..];
        at += match byte {
            b' ' | b'\t' | b'\r' | b'\n' | 11 | 12 => 1,
            b'/' if rest.starts_with(b"/*!") || rest.starts_with(b"/*M!") => {
                let open = if rest[2] == b'M' { 4 } else { 3 };
                open + rest[open..].iter().take_while(|byte| byte.is_ascii_digit()).count()
            }
            b'/' if rest.starts_with(b"/*") => find(rest, b"*/").map_or(rest.len(), |end| end + 2),
            b'*' if rest.starts_with(b"*/") => 2,
            b'#' => find(rest, b"\n").unwrap_or(rest.len()),
            b'-' if rest.starts_with(b"--") && rest.get(2).is_none_or(u8::is_ascii_whitespace) => {
                find(rest, b"\n").unwrap_or(rest.len())
            }
            b'`' | b'"' => {
                let (name, len) = quoted(rest, byte, false);
                tokens.push(Token::Quoted(String::from_utf8_lossy(&name).into_owned()));
                len
            }
            b'\'' => {
                tokens.push(Token::Literal);
                quoted(rest, byte, true).1
            }
            _ if is_word(byte) => {
                let len = rest.iter().take_while(|byte| is_word(**byte)).count();
                tokens.push(Token::Word(String::from_utf8_lossy(&rest[..len]).into_owned()));
                len
            }
            mark => {
                tokens.push(Token::Mark(mark));
                1
            }
        };
    }
    tokens
}

/// Names may have letters of any script.
const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// What stands in quotes, and how long that is with them; a quote that is doubled is one of it.
fn quoted(text: &[u8], quote: u8, has_escapes: bool) -> (Vec<u8>, usize) {
    let (mut inside, mut at) = (Vec::new(), 1);
    while let Some(&byte) = text.get(at) {
        match byte {
            b'\\' if has_escapes => {
                inside.extend(text.get(at + 1));
                at += 2;
            }
            _ if byte == quote && text.get(at + 1) == Some(&quote) => {
                inside.push(quote);
                at += 2;
            }
            _ if byte == quote => return (inside, at + 1),
            _ => {
                inside.push(byte);
                at += 1;
            }
        }
    }
    (inside, at.min(text.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        match text.split_once('.') {
            Some((database, table)) => Name { database: Some(database.to_owned()), table: table.to_owned() },
            None => Name { database: None, table: text.to_owned() },
        }
    }

    #[test]
    fn a_table_that_is_emptied_dropped_or_renamed_is_never_taken_for_harmless() {
        let drops = |names: &[&str]| Statement::Drop(names.iter().map(|it| name(it)).collect());
        let renames =
            |pairs: &[(&str, &str)]| Statement::Rename(pairs.iter().map(|(from, to)| (name(from), name(to))).collect());
        let alters = |table, moves_rows| Statement::Alter { table: name(table), others: Vec::new(), moves_rows };
        let with = |table, other| Statement::Alter { table: name(table), others: vec![name(other)], moves_rows: true };
        for (text, wanted) in [
            ("truncate stock", Statement::Truncate(name("stock"))),
            ("TRUNCATE TABLE `shop`.`st``ock` -- all", Statement::Truncate(name("shop.st`ock"))),
            ("/* by hand */ TRUNCATE /*!50000 TABLE */ shop . stock", Statement::Truncate(name("shop.stock"))),
            ("DROP TABLE IF EXISTS `a`,b.`c` /* generated by server */", drops(&["a", "b.c"])),
            ("CREATE OR REPLACE TABLE t (id int)", drops(&["t"])),
            ("DROP DATABASE IF EXISTS shop", Statement::DropDatabase("shop".to_owned())),
            ("RENAME TABLE a TO _a_old, `_a_new` TO a", renames(&[("a", "_a_old"), ("_a_new", "a")])),
            ("ALTER TABLE a ADD COLUMN x int DEFAULT 'RENAME TO b', RENAME AS b", renames(&[("a", "b")])),
            ("ALTER TABLE a RENAME COLUMN b TO c", alters("a", false)),
            ("ALTER TABLE a DROP PARTITION p1", alters("a", true)),
            ("alter table a truncate partition p1", alters("a", true)),
            ("ALTER TABLE a EXCHANGE PARTITION p WITH TABLE b", with("a", "b")),
            ("ALTER TABLE a CONVERT TABLE b TO PARTITION p VALUES LESS THAN (3)", with("a", "b")),
            ("ALTER TABLE a CONVERT TO CHARACTER SET utf8mb4", alters("a", false)),
            ("ALTER TABLE a IMPORT TABLESPACE", alters("a", true)),
        ] {
            assert_eq!(read(text.as_bytes()), wanted, "{text}");
        }
    }

    #[test]
    fn a_change_that_is_logged_as_a_statement_is_found_whatever_stands_before_it() {
        for text in [
            "insert into t values (1)",
            "/* x */ UPDATE t SET a=1",
            "# x\nDELETE FROM t",
            "-- x\nREPLACE t SELECT 1",
            "WITH x AS (SELECT 1) DELETE FROM t",
        ] {
            assert_eq!(read(text.as_bytes()), Statement::Rows, "{text}");
        }
        for text in
            ["HANDLER t OPEN", "(SELECT 1)", "TRUNCATE", "DROP TABLE ''", "ALTER TABLE", "RENAME TABLE a", "'x'"]
        {
            assert_eq!(read(text.as_bytes()), Statement::Unknown, "{text}");
        }
    }

    #[test]
    fn what_frames_a_transaction_is_told_apart() {
        for (text, wanted) in [
            ("BEGIN", Statement::Begin),
            ("COMMIT", Statement::Commit),
            ("ROLLBACK", Statement::Rollback),
            ("ROLLBACK TO `sp`", Statement::RollbackTo),
            ("SAVEPOINT `sp`", Statement::Savepoint),
            ("XA START X'31',X'',1", Statement::XaBegin),
            ("XA END X'31',X'',1", Statement::XaBegin),
            ("XA COMMIT X'31',X'',1", Statement::XaEnd),
            ("XA RECOVER", Statement::Unknown),
            ("CREATE TABLE t (id int)", Statement::Harmless),
            (
                "CREATE DEFINER=`root`@`localhost` TRIGGER x BEFORE INSERT ON t FOR EACH ROW SET @a = 1",
                Statement::Harmless,
            ),
            ("DROP TEMPORARY TABLE IF EXISTS `t`", Statement::Harmless),
            ("DROP /*!40005 TEMPORARY */ TABLE IF EXISTS `t`", Statement::Harmless),
            ("DROP INDEX i ON t", Statement::Harmless),
            ("ANALYZE TABLE t", Statement::Harmless),
            ("", Statement::Harmless),
        ] {
            assert_eq!(read(text.as_bytes()), wanted, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_text_makes_it_panic(text in "(TRUNCATE|DROP|ALTER|RENAME|TABLE|[a-z`'\"\\\\/*!#., -]){0,14}", bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = read(text.as_bytes());
            let _ = read(&bytes);
        }
    }
}
