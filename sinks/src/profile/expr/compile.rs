//! A tree against an entity: names become places of columns, and every type is checked, before a row is seen.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use chrono_tz::Tz;
use syncline_schemas::delta::{SYSTEM_COLUMNS, system_fields};
use syncline_schemas::entity::{Entity, FieldType};

use super::decimal::{DIGITS_MAX, Rounding};
use super::fault::{UNKNOWN_XREF, UNMAPPED};
use super::{Comparison, Expr, Kind, Node, TextTable};

/// System columns that an expression may name: the others are neither text nor time.
const SYSTEM_TEXTS: [&str; 3] = ["_source_system", "_source_table", "_source_pos"];
const SYSTEM_INSTANTS: [&str; 2] = ["_commit_ts", "_captured_ts"];
const FUNCTIONS: &str = "coalesce, map, concat, dec, date, xref, if, is_null";

/// What an expression may name.
pub(in super::super) struct Scope<'s> {
    pub(in super::super) entity: &'static Entity,
    pub(in super::super) tables: &'s BTreeMap<String, Arc<TextTable>>,
    pub(in super::super) schemes: &'s BTreeMap<String, Arc<TextTable>>,
}

/// An expression and what it gives.
type Typed = (Expr, Kind);

/// Checks an expression.
///
/// # Errors
/// What is wrong and what would be right.
pub(in super::super) fn compile(node: &Node, scope: &Scope<'_>) -> Result<Typed, String> {
    match node {
        Node::Field(name) => scope.column(name),
        Node::Text(text) => Ok((Expr::Text(text.clone()), Kind::Text)),
        Node::Number { digits, scale: 0 } => match i64::try_from(*digits) {
            Ok(integer) => Ok((Expr::Integer(integer), Kind::Integer)),
            Err(_) => Ok((Expr::Decimal { digits: *digits, scale: 0 }, Kind::Decimal(0))),
        },
        Node::Number { digits, scale } => Ok((Expr::Decimal { digits: *digits, scale: *scale }, Kind::Decimal(*scale))),
        Node::Truth(truth) => Ok((Expr::Truth(*truth), Kind::Boolean)),
        Node::Null => Ok((Expr::Null(Kind::Null), Kind::Null)),
        Node::Call { name, arguments } => scope.call(name, arguments),
        Node::Compare { how, left, right } => scope.compare(*how, left, right),
        Node::And(left, right) => Ok((Expr::And(scope.truth("and", left)?, scope.truth("and", right)?), Kind::Boolean)),
        Node::Or(left, right) => Ok((Expr::Or(scope.truth("or", left)?, scope.truth("or", right)?), Kind::Boolean)),
        Node::Not(of) => Ok((Expr::Not(scope.truth("not", of)?), Kind::Boolean)),
    }
}

impl Scope<'_> {
    fn column(&self, name: &str) -> Result<Typed, String> {
        if let Some((at, field)) = self.entity.field(name) {
            let kind = match field.field_type {
                FieldType::String | FieldType::Code => Kind::Text,
                FieldType::Quantity | FieldType::UnitPrice => Kind::Decimal(9),
                FieldType::Money => Kind::Decimal(6),
                FieldType::Rate => Kind::Decimal(12),
                FieldType::Date => Kind::Date,
                FieldType::Instant => Kind::Instant,
                FieldType::Boolean => Kind::Boolean,
                FieldType::Integer => Kind::Integer,
            };
            return Ok((Expr::Column { at: SYSTEM_COLUMNS + at, kind }, kind));
        }
        let kind = match name {
            _ if SYSTEM_TEXTS.contains(&name) => Kind::Text,
            _ if SYSTEM_INSTANTS.contains(&name) => Kind::Instant,
            _ => {
                let fields: Vec<&str> = self.entity.fields.iter().map(|field| field.name.as_str()).collect();
                return Err(format!("names {name}, which {} has not; it has {}", self.entity.name, fields.join(", ")));
            }
        };
        let at = system_fields().iter().position(|field| field.name() == name).expect("one of the system columns");
        Ok((Expr::Column { at, kind }, kind))
    }

    fn call(&self, name: &str, arguments: &[Node]) -> Result<Typed, String> {
        match (name, arguments) {
            ("coalesce", [_, ..]) => self.coalesce(arguments),
            ("concat", [_, ..]) => {
                let parts = arguments.iter().map(|argument| compile(argument, self).map(|(part, _)| part));
                Ok((Expr::Concat(parts.collect::<Result<_, _>>()?), Kind::Text))
            }
            ("map", [Node::Text(table) | Node::Field(table), of]) => {
                self.look_up(self.tables, &format!("[tables.{table}]"), table, of, UNMAPPED)
            }
            ("xref", [Node::Text(scheme), of]) => {
                self.look_up(self.schemes, &format!("[xref.{scheme}]"), scheme, of, UNKNOWN_XREF)
            }
            ("dec", [of, Node::Number { digits, scale: 0 }, Node::Text(rounding)]) => {
                self.decimal(of, *digits, rounding)
            }
            ("date", [of, Node::Text(format)]) => self.date(of, format, None),
            ("date", [of, Node::Text(format), Node::Text(zone)]) => self.date(of, format, Some(zone)),
            ("if", [when, then, otherwise]) => {
                let when = self.truth("if", when)?;
                let (then, otherwise) = (compile(then, self)?, compile(otherwise, self)?);
                let kind = unify("if", then.1, otherwise.1)?;
                let (then, otherwise) = (Box::new(cast(then, kind)), Box::new(cast(otherwise, kind)));
                Ok((Expr::If { when, then, otherwise }, kind))
            }
            ("is_null", [of]) => Ok((Expr::IsNull(Box::new(compile(of, self)?.0)), Kind::Boolean)),
            _ => Err(format!("calls {}", usage(name))),
        }
    }

    fn coalesce(&self, arguments: &[Node]) -> Result<Typed, String> {
        let typed = arguments.iter().map(|argument| compile(argument, self)).collect::<Result<Vec<_>, _>>()?;
        let kind = typed.iter().try_fold(Kind::Null, |kind, (_, other)| unify("coalesce", kind, *other))?;
        Ok((Expr::Coalesce(typed.into_iter().map(|it| cast(it, kind)).collect()), kind))
    }

    fn look_up(
        &self,
        tables: &BTreeMap<String, Arc<TextTable>>,
        section: &str,
        name: &str,
        of: &Node,
        missing: &'static str,
    ) -> Result<Typed, String> {
        let table = tables.get(name).ok_or_else(|| format!("looks into {section}, which the profile has not"))?;
        let (of, kind) = compile(of, self)?;
        match kind {
            Kind::Text => Ok((Expr::Map { table: Arc::clone(table), of: Box::new(of), missing }, Kind::Text)),
            other => Err(format!("looks for a {other} in {section}; only texts are looked for")),
        }
    }

    fn decimal(&self, of: &Node, scale: i128, rounding: &str) -> Result<Typed, String> {
        let scale = u8::try_from(scale).ok().filter(|scale| *scale <= DIGITS_MAX);
        let scale = scale.ok_or_else(|| format!("calls dec with a scale that is not 0 to {DIGITS_MAX}"))?;
        let known = Rounding::WORDS.iter().find(|(word, _)| *word == rounding);
        let Some((_, rounding)) = known else {
            let words = Rounding::WORDS.map(|(word, _)| word).join(", ");
            return Err(format!("calls dec with the rounding '{rounding}'; it is one of {words}"));
        };
        let (of, kind) = compile(of, self)?;
        let of = match kind {
            Kind::Decimal(_) | Kind::Null => cast((of, kind), Kind::Decimal(scale_of(kind))),
            Kind::Integer => cast((of, kind), Kind::Decimal(0)),
            other => return Err(format!("calls dec with a {other}; it takes a number")),
        };
        Ok((Expr::Round { of: Box::new(of), scale, rounding: *rounding }, Kind::Decimal(scale)))
    }

    fn date(&self, of: &Node, format: &str, zone: Option<&str>) -> Result<Typed, String> {
        let (of, kind) = compile(of, self)?;
        let zone = match (kind, zone) {
            (Kind::Date, None) => Tz::UTC,
            (Kind::Date, Some(_)) => return Err("calls date with a zone for a day, which lies in none".to_owned()),
            (Kind::Instant, Some(zone)) => {
                zone.parse().map_err(|_| format!("calls date with the zone '{zone}', which IANA does not know"))?
            }
            (Kind::Instant, None) => return Err("calls date without the zone in which an instant is told".to_owned()),
            (other, _) => return Err(format!("calls date with a {other}; it takes a date or an instant")),
        };
        // A day has no hours: tried now, so that it cannot fail with a row.
        let day = chrono::NaiveDate::default();
        let mut sample = String::new();
        let written = match kind {
            Kind::Date => write!(sample, "{}", day.format(format)),
            _ => {
                write!(sample, "{}", day.and_time(chrono::NaiveTime::MIN).and_utc().with_timezone(&zone).format(format))
            }
        };
        written.map_err(|_| format!("calls date with the format '{format}', which a {kind} has no value for"))?;
        Ok((Expr::Format { of: Box::new(of), format: Arc::from(format), zone }, Kind::Text))
    }

    fn compare(&self, how: Comparison, left: &Node, right: &Node) -> Result<Typed, String> {
        let (left, right) = (compile(left, self)?, compile(right, self)?);
        let kind = unify("a comparison", left.1, right.1)?;
        if left.1 == Kind::Null || right.1 == Kind::Null {
            return Err("compares with null, which is never true; write is_null(x)".to_owned());
        }
        let (left, right) = (Box::new(cast(left, kind)), Box::new(cast(right, kind)));
        Ok((Expr::Compare { how, left, right }, Kind::Boolean))
    }

    fn truth(&self, place: &str, node: &Node) -> Result<Box<Expr>, String> {
        match compile(node, self)? {
            (expr, Kind::Boolean) => Ok(Box::new(expr)),
            (_, other) => Err(format!("has a {other} where {place} needs a boolean")),
        }
    }
}

const fn scale_of(kind: Kind) -> u8 {
    match kind {
        Kind::Decimal(scale) => scale,
        _ => 0,
    }
}

/// The kind that both can be without a loss.
fn unify(place: &str, left: Kind, right: Kind) -> Result<Kind, String> {
    use Kind::{Decimal, Integer, Null};
    match (left, right) {
        _ if left == right => Ok(left),
        (Null, other) | (other, Null) => Ok(other),
        (Decimal(_) | Integer, Decimal(_) | Integer) => Ok(Decimal(scale_of(left).max(scale_of(right)))),
        _ => Err(format!("has a {left} beside a {right} in {place}")),
    }
}

/// To a kind that [`unify`] gave.
fn cast((expr, from): Typed, to: Kind) -> Expr {
    match (expr, to) {
        (Expr::Null(_), kind) => Expr::Null(kind),
        (expr, Kind::Decimal(scale)) if from != to => Expr::Widen { of: Box::new(expr), scale },
        (expr, _) => expr,
    }
}

/// How a function is called.
fn usage(name: &str) -> String {
    let usage = match name {
        "coalesce" => "coalesce(x, y, ..)",
        "concat" => "concat(x, y, ..)",
        "map" => "map(table, x)",
        "xref" => "xref('scheme', x)",
        "dec" => "dec(x, scale, 'rounding')",
        "date" => "date(x, 'format', 'zone')",
        "if" => "if(condition, x, y)",
        "is_null" => "is_null(x)",
        other => return format!("{other}, which is no function; there are {FUNCTIONS}"),
    };
    format!("{name} in another way than {usage}")
}
