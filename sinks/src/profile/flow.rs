//! What a profile says of one entity, checked against it: its fields there, its key, what is left out and what is deleted.

use std::collections::BTreeMap;

use arrow::datatypes::DataType;
use syncline_schemas::delta::SYSTEM_COLUMNS;
use syncline_schemas::entity::Entity;

use super::definition::{Delete, Flow, Member};
use super::dialect::Speech;
use super::document::{Faults, Found, Table};
use super::expr::{self, Expr, Kind, Scope};

/// Reads `[flow.<entity>]`.
pub(super) fn read(
    mut table: Table<'_>,
    scope: &Scope<'_>,
    speech: &Speech,
    (max_records, max_bytes): (usize, usize),
    faults: &mut Faults,
) -> Option<Flow> {
    let entity = scope.entity;
    let before = faults.len();
    let members = members(&mut table, scope, speech, faults);
    let key = key(&mut table, entity, &members, faults);
    let condition = table.text("where", faults).and_then(|text| condition(&text, scope, faults));
    let conjuncts = condition.map(Expr::conjuncts).unwrap_or_default();
    let pinned: Vec<usize> = conjuncts.iter().filter_map(Expr::pins).collect();
    let (keep, own): (Vec<Expr>, Vec<Expr>) =
        conjuncts.into_iter().partition(|condition| condition.names(&|at| !is_key(entity, at)));
    let constant = constant(&mut table, entity, faults);
    let delete = delete(&mut table, &members, &key, speech, faults);
    let mut words = BTreeMap::new();
    let path = speech.read_flow(&mut table, entity, &mut words, faults);
    let flow = Flow {
        entity,
        path: path.unwrap_or_default(),
        members,
        key,
        own: all_of(own),
        keep: all_of(keep),
        constant,
        delete,
        max_records: table.count("max_records", faults).unwrap_or(max_records),
        max_bytes: table.count("max_bytes", faults).unwrap_or(max_bytes),
        words,
    };
    if faults.len() == before {
        tells_rows_apart(&table, &flow, &pinned, faults);
    }
    table.finish(faults);
    (faults.len() == before).then_some(flow)
}

/// `row = { name = "expression" }`; all fields of the entity where a dialect does without.
fn members(table: &mut Table<'_>, scope: &Scope<'_>, speech: &Speech, faults: &mut Faults) -> Vec<Member> {
    if !table.has("row") && speech.takes_all_fields() {
        let field = |name: &String| {
            let (expr, kind) = expr::compile(&expr::Node::Field(name.clone()), scope).expect("a field of the entity");
            Member { name: name.clone(), kind, expr }
        };
        return scope.entity.fields.iter().map(|it| field(&it.name)).collect();
    }
    let Some(mut row) = table.table("row", faults) else {
        table.fault(faults, "needs row = { <field there> = \"<expression>\" }");
        return Vec::new();
    };
    let mut members = Vec::new();
    for name in row.keys() {
        let Some(text) = row.text(&name, faults) else { continue };
        match expr::parse(&text.value).and_then(|node| expr::compile(&node, scope)) {
            Ok((expr, kind)) => members.push(Member { name, kind, expr }),
            Err(reason) => text.fault(faults, reason),
        }
    }
    members
}

/// `key = ["item", "location"]`, names of members.
fn key(table: &mut Table<'_>, entity: &Entity, members: &[Member], faults: &mut Faults) -> Vec<usize> {
    let Some(names) = table.texts("key", faults) else {
        if table.has("row") {
            table.fault(faults, "needs key = [...]: which fields of row tell rows apart there");
        }
        return (0..entity.key_len().min(members.len())).collect();
    };
    let mut key = Vec::new();
    for name in &names.value {
        let Some(at) = members.iter().position(|member| member.name == *name) else {
            names.fault(faults, format!("has {name}, which row does not give"));
            continue;
        };
        if members[at].expr.names(&|at| !is_key(entity, at)) {
            let fields: Vec<&str> = entity.fields[..entity.key_len()].iter().map(|it| it.name.as_str()).collect();
            let (name, fields) = (&entity.name, fields.join(", "));
            names.fault(
                faults,
                format!(
                    "has {}, which reads more than the key of {name} ({fields}); a deleted row carries nothing else",
                    members[at].name
                ),
            );
        }
        key.push(at);
    }
    if names.value.is_empty() {
        names.fault(faults, "is empty; name the fields of row that tell rows apart there");
    }
    key
}

fn is_key(entity: &Entity, at: usize) -> bool {
    (SYSTEM_COLUMNS..SYSTEM_COLUMNS + entity.key_len()).contains(&at)
}

fn all_of(conditions: Vec<Expr>) -> Option<Expr> {
    conditions.into_iter().reduce(|left, right| Expr::And(Box::new(left), Box::new(right)))
}

fn condition(text: &Found<String>, scope: &Scope<'_>, faults: &mut Faults) -> Option<Expr> {
    match expr::parse(&text.value).and_then(|node| expr::compile(&node, scope)) {
        Ok((expr, Kind::Boolean)) => Some(expr),
        Ok((_, other)) => {
            text.fault(faults, format!("is a {other}; it is a condition, as in status = 'open'"));
            None
        }
        Err(reason) => {
            text.fault(faults, reason);
            None
        }
    }
}

/// `constant = ["company_id"]`.
fn constant(table: &mut Table<'_>, entity: &Entity, faults: &mut Faults) -> Vec<usize> {
    let Some(names) = table.texts("constant", faults) else { return Vec::new() };
    let mut constant = Vec::new();
    for name in &names.value {
        match entity.field(name).filter(|(_, field)| field.key) {
            Some((_, field)) if field.field_type.arrow() != DataType::Utf8 => {
                names
                    .fault(faults, format!("has {name}, which is no text; pin it with where, or take it into the key"));
            }
            Some((at, _)) => constant.push(SYSTEM_COLUMNS + at),
            None => names.fault(faults, format!("has {name}, which is no field of the key of {}", entity.name)),
        }
    }
    constant
}

fn delete(table: &mut Table<'_>, members: &[Member], key: &[usize], speech: &Speech, faults: &mut Faults) -> Delete {
    let Some(mut delete) = table.table("delete", faults) else {
        return speech.delete_by_itself().unwrap_or_else(|| {
            table.fault(faults, "needs delete = { strategy = \"...\" }: what becomes of a row that is deleted here");
            Delete::Keep
        });
    };
    let ways = speech.deletes();
    let strategy = delete.required("strategy", faults);
    let fields = delete.texts("fields", faults);
    delete.finish(faults);
    let Some(strategy) = strategy else { return Delete::Keep };
    if !ways.contains(&strategy.value.as_str()) {
        strategy.fault(faults, format!("is \"{}\"; this dialect has {}", strategy.value, ways.join(", ")));
    }
    match (strategy.value.as_str(), fields) {
        ("delete", None) => {
            if speech.deletes_by_path() && key.len() != 1 {
                strategy.fault(faults, "needs a key of one field, which ends the path of a row there");
            }
            Delete::Remove
        }
        ("set_zero", Some(fields)) => {
            let mut zeros = Vec::new();
            for name in &fields.value {
                let place = members.iter().position(|member| member.name == *name);
                let numeric = place.filter(|at| matches!(members[*at].kind, Kind::Decimal(_) | Kind::Integer));
                match numeric.filter(|at| !key.contains(at)) {
                    Some(at) => zeros.push(at),
                    None => fields.fault(faults, format!("has {name}, which is no number of row beside its key")),
                }
            }
            Delete::SetZero(zeros)
        }
        ("set_zero", None) => {
            strategy.fault(faults, "needs fields = [...] beside it: the numbers of row that become 0");
            Delete::Keep
        }
        (_, Some(fields)) => {
            fields.fault(faults, "has no effect without strategy = \"set_zero\"");
            Delete::Keep
        }
        _ => Delete::Keep,
    }
}

/// Refuses a key under which several rows of ours would meet.
fn tells_rows_apart(table: &Table<'_>, flow: &Flow, pinned: &[usize], faults: &mut Faults) {
    let lost: Vec<&str> = (0..flow.entity.key_len())
        .filter(|at| {
            let at = SYSTEM_COLUMNS + at;
            let is_named = |expr: &Expr| expr.names(&|named| named == at);
            !flow.constant.contains(&at)
                && !flow.key.iter().any(|member| is_named(&flow.members[*member].expr))
                && !pinned.contains(&at)
        })
        .map(|at| flow.entity.fields[at].name.as_str())
        .collect();
    if !lost.is_empty() {
        let fields = lost.join(", ");
        table.fault(
            faults,
            format!(
                "has a key without {fields}: rows that differ in nothing else would overwrite each other there; take \
                 {fields} into the key, pin it with where (as in field = 'value'), or name it in constant where it is always the same"
            ),
        );
    }
}
