//! The text of an expression to its tree: a recursive descent over a small grammar.
//!
//! ```text
//! expr    := and { "or" and }          compare := primary [ ("=" | "!=" | "<>" | "<" | "<=" | ">" | ">=") primary ]
//! and     := not { "and" not }         primary := 'text' | number | true | false | null | field | name "(" expr, .. ")"
//! not     := "not" not | compare                | "(" expr ")"
//! ```

use super::{Comparison, Node};

/// Longer than any that a person would still read.
const TEXT_MAX: usize = 4_096;
/// Depth of an expression in itself: far from the end of the stack.
const DEPTH_MAX: usize = 32;
/// Digits of a number: those of a Decimal128.
const DIGITS_MAX: usize = 38;

/// Parses an expression.
///
/// # Errors
/// What is wrong and where, in characters from 1.
pub(in super::super) fn parse(text: &str) -> Result<Node, String> {
    if text.len() > TEXT_MAX {
        return Err(format!("is longer than {TEXT_MAX} bytes; split it"));
    }
    let mut parser = Parser { text, at: 0, depth: 0 };
    let node = parser.expression()?;
    parser.space();
    if parser.at < text.len() {
        return Err(parser.fault("ends here, and then something follows"));
    }
    Ok(node)
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn fault(&self, what: &str) -> String {
        format!("{what}, at character {}", self.text[..self.at].chars().count() + 1)
    }

    fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Takes a sign where it comes next.
    fn sign(&mut self, sign: &str) -> bool {
        self.space();
        let is_next = self.rest().starts_with(sign);
        if is_next {
            self.at += sign.len();
        }
        is_next
    }

    fn name(&mut self) -> Option<&'t str> {
        self.space();
        let rest = self.rest();
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let name = &rest[..end];
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_').then(|| {
            self.at += end;
            name
        })
    }

    /// Takes a word where it comes next as a whole.
    fn word(&mut self, word: &str) -> bool {
        let before = self.at;
        if self.name() == Some(word) {
            return true;
        }
        self.at = before;
        false
    }

    fn expression(&mut self) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.fault("is nested too deeply"));
        }
        let mut node = self.conjunction()?;
        while self.word("or") {
            node = Node::Or(Box::new(node), Box::new(self.conjunction()?));
        }
        self.depth -= 1;
        Ok(node)
    }

    fn conjunction(&mut self) -> Result<Node, String> {
        let mut node = self.negation()?;
        while self.word("and") {
            node = Node::And(Box::new(node), Box::new(self.negation()?));
        }
        Ok(node)
    }

    fn negation(&mut self) -> Result<Node, String> {
        let mut negations = 0;
        while self.word("not") {
            negations += 1;
        }
        let node = self.comparison()?;
        Ok((0..negations).fold(node, |node, _| Node::Not(Box::new(node))))
    }

    fn comparison(&mut self) -> Result<Node, String> {
        let left = self.primary()?;
        let signs = [
            ("!=", Comparison::Unequal),
            ("<>", Comparison::Unequal),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("=", Comparison::Equal),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        for (sign, how) in signs {
            if self.sign(sign) {
                return Ok(Node::Compare { how, left: Box::new(left), right: Box::new(self.primary()?) });
            }
        }
        Ok(left)
    }

    fn primary(&mut self) -> Result<Node, String> {
        if self.sign("(") {
            let node = self.expression()?;
            return if self.sign(")") { Ok(node) } else { Err(self.fault("misses a )")) };
        }
        if self.sign("'") {
            return self.quoted();
        }
        if self.rest().starts_with(|c: char| c.is_ascii_digit() || c == '-') {
            return self.number();
        }
        match self.name() {
            None if self.rest().is_empty() => Err(self.fault("ends too early")),
            None => Err(self.fault("has a sign that no expression begins with")),
            Some("true") => Ok(Node::Truth(true)),
            Some("false") => Ok(Node::Truth(false)),
            Some("null") => Ok(Node::Null),
            Some(name) if self.sign("(") => self.call(name),
            Some(name) => Ok(Node::Field(name.to_owned())),
        }
    }

    /// Behind the opening quote; two quotes are one in the text.
    fn quoted(&mut self) -> Result<Node, String> {
        let mut text = String::new();
        loop {
            let Some((piece, _)) = self.rest().split_once('\'') else {
                return Err(self.fault("has a text that does not end; a quote inside is written twice"));
            };
            text.push_str(piece);
            self.at += piece.len() + 1;
            if !self.rest().starts_with('\'') {
                return Ok(Node::Text(text));
            }
            text.push('\'');
            self.at += 1;
        }
    }

    fn number(&mut self) -> Result<Node, String> {
        let rest = self.rest();
        let unsigned = rest.strip_prefix('-').unwrap_or(rest);
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (whole, fraction) = unsigned[..end].split_once('.').unwrap_or((&unsigned[..end], ""));
        let digits = format!("{whole}{fraction}");
        let is_number = !whole.is_empty() && digits.len() <= DIGITS_MAX && !fraction.contains('.');
        let value = digits.parse::<i128>().ok().filter(|_| is_number && !unsigned[..end].ends_with('.'));
        let Some(value) = value else { return Err(self.fault("has a number that is none, as 12 or -0.5 are")) };
        let negative = rest.len() > unsigned.len();
        self.at += end + usize::from(negative);
        let scale = u8::try_from(fraction.len()).expect("at most DIGITS_MAX");
        Ok(Node::Number { digits: if negative { -value } else { value }, scale })
    }

    /// Behind the opening parenthesis.
    fn call(&mut self, name: &str) -> Result<Node, String> {
        let mut arguments = Vec::new();
        if !self.sign(")") {
            loop {
                arguments.push(self.expression()?);
                if self.sign(")") {
                    break;
                }
                if !self.sign(",") {
                    return Err(self.fault("misses a , or a )"));
                }
            }
        }
        Ok(Node::Call { name: name.to_owned(), arguments })
    }
}
