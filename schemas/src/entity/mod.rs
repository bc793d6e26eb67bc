//! Canonical entities, read from `canonical/<entity>.toml`.
//!
//! One definition per entity is the only place that says which fields it has. The Arrow schema, the JSON Schema and the
//! documentation table are derived from it, so that they cannot disagree. The definitions are embedded in the binary:
//! a daemon and its contract are one version.
//!
//! Invariants, checked when a definition is read: key fields come first and are required; the partition key is a prefix
//! of the key; measures are numeric and appear only in summed entities; derived fields are never keys; a reference gives
//! the key of an entity that comes before its own.

mod asyncapi;
mod definition;
pub mod documents;
mod reference;

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef};

use crate::delta;
use crate::table::instant;

/// How rows come to be from contributions (design section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One contributor per key; a vanished contributor deletes the row.
    Plain,
    /// Measures add up over all contributors; the last one vanishing leaves an upsert of zero.
    Summed,
    /// Append-only: rows are never coalesced; otherwise like plain.
    Event,
}

/// Which flows go first (domain 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Criticality {
    /// Strict priority.
    Critical,
    /// The remaining share.
    Noncritical,
}

/// The types of domain 2.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldType {
    /// Free text or an identifier.
    String,
    /// Text from a small set.
    Code,
    /// Decimal(28,9) in the item's base unit.
    Quantity,
    /// Decimal(28,6) in the row's currency.
    Money,
    /// Decimal(28,9) per base unit.
    UnitPrice,
    /// Decimal(28,12).
    Rate,
    /// A calendar day.
    Date,
    /// Microseconds, UTC.
    Instant,
    /// True or false.
    Boolean,
    /// 32 bits, signed.
    Integer,
}

impl FieldType {
    /// The Arrow type of its values.
    #[must_use]
    pub fn arrow(self) -> DataType {
        match self {
            Self::String | Self::Code => DataType::Utf8,
            Self::Quantity | Self::UnitPrice => DataType::Decimal128(28, 9),
            Self::Money => DataType::Decimal128(28, 6),
            Self::Rate => DataType::Decimal128(28, 12),
            Self::Date => DataType::Date32,
            Self::Instant => instant(),
            Self::Boolean => DataType::Boolean,
            Self::Integer => DataType::Int32,
        }
    }
}

/// How a field of a summed entity comes from several contributions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Merge {
    /// The value of the contribution applied last.
    #[default]
    Last,
    /// The sum over all contributions; one that does not give the field adds nothing.
    Sum,
}

/// One field of an entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// `snake_case` name.
    pub name: String,
    /// Its type.
    pub field_type: FieldType,
    /// True for a part of the key.
    pub key: bool,
    /// True where null is not a value of it.
    pub required: bool,
    /// How contributions combine; only [`Kind::Summed`] entities differ from [`Merge::Last`].
    pub merge: Merge,
    /// SQL over the other fields; a derived field is never mapped.
    pub derived: Option<String>,
    /// True where the value is the commit time of the newest contribution; ignored when rows are compared.
    pub stamp: bool,
    /// True where the value counts how often the row was delivered again with other values; ignored when rows are compared.
    pub revision: bool,
    /// Text of the value that a mapping may leave out.
    pub default: Option<String>,
    /// What one unit is, as in `base unit of the item` or `days`.
    pub unit: Option<String>,
    /// The allowed values of a code; empty where it is open.
    pub values: Vec<String>,
    /// What it means.
    pub doc: String,
}

impl Field {
    /// True where no mapping gives the value.
    #[must_use]
    pub const fn is_computed(&self) -> bool {
        self.derived.is_some() || self.stamp || self.revision
    }
}

/// What happens to a row for which a rule's condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The row is held: the last good contribution stays.
    Reject,
    /// The row is delivered and counted.
    Warn,
}

/// A quality rule of domain 2.5.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its id, as in `DQ_NEGATIVE_ONHAND`.
    pub id: String,
    /// SQL over the fields; the rule is violated where it is true.
    pub when: String,
    /// What then happens.
    pub action: Action,
    /// What an operator should know.
    pub doc: String,
}

/// A rule over the rows that share an entity's first key fields (domain 2.5, H1 to H6 and `DQ_UOM_CYCLE`). Rows that break
/// it are delivered and listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRule {
    /// Its id, as in `H3`.
    pub id: String,
    /// What holds of rows that go together.
    pub doc: String,
}

/// Which row of another entity a row cites.
///
/// It cites none where one of the fields is null, or where the last is empty text: the last field tells rows apart that
/// share the others, and an empty `location_id` stands for anywhere. Where a mapping feeds the other entity, a row is not
/// good before the row that it cites is there (domain 0.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// `DQ_REF_` and the other entity's name, as in `DQ_REF_ITEM`; two references to one entity share it.
    pub id: String,
    /// The entity whose row is cited; it comes before this one in [`all`].
    pub entity: String,
    /// Indexes of the fields that hold its key, in the order of that key.
    pub fields: Vec<usize>,
    /// What it means.
    pub doc: String,
}

/// A canonical entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entity {
    /// `snake_case` name; also the flow's name.
    pub name: String,
    /// Major and minor version of its schema; minors only add.
    pub version: (u32, u32),
    /// How rows come to be.
    pub kind: Kind,
    /// Which flows go first.
    pub criticality: Criticality,
    /// How many key fields, from the first, decide the partition of a row.
    pub partition_fields: usize,
    /// What one row is.
    pub doc: String,
    /// The fields, key fields first.
    pub fields: Vec<Field>,
    /// The quality rules.
    pub rules: Vec<Rule>,
    /// The rows of other entities that a row cites.
    pub references: Vec<Reference>,
    /// How many key fields, from the first, rows share that belong together; zero where none do.
    pub group_fields: usize,
    /// Rules over rows that belong together.
    pub group_rules: Vec<GroupRule>,
}

impl Entity {
    /// How many of the first fields are the key.
    #[must_use]
    pub fn key_len(&self) -> usize {
        self.fields.iter().take_while(|field| field.key).count()
    }

    /// The field of a name and its index.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<(usize, &Field)> {
        self.fields.iter().enumerate().find(|(_, field)| field.name == name)
    }

    /// True where its rows may cite rows of another entity.
    #[must_use]
    pub fn cites(&self, other: &str) -> bool {
        self.references.iter().any(|reference| reference.entity == other)
    }

    /// The fields' Arrow schema, with nullability as declared.
    #[must_use]
    pub fn fields_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.fields.iter().map(|field| arrow_field(field, !field.required)).collect::<Vec<_>>()))
    }

    /// The schema of a [`delta::DeltaBatch`]: system columns, then all fields, nullable unless key.
    #[must_use]
    pub fn delta_schema(&self) -> SchemaRef {
        let mut fields = delta::system_fields().to_vec();
        fields.extend(self.fields.iter().map(|field| arrow_field(field, !field.key)));
        Arc::new(Schema::new(fields))
    }

    /// `inventory_balance/1.2`, as in a `PDX-Schema` header.
    #[must_use]
    pub fn schema_id(&self) -> String {
        format!("{}/{}.{}", self.name, self.version.0, self.version.1)
    }
}

impl Entity {
    /// How its rows lie in memory and on disk: who wrote rows with another layout wrote other rows.
    #[must_use]
    pub fn layout(&self) -> String {
        let field = |field: &Field| {
            let Field { name, field_type, key, merge, stamp, revision, .. } = field;
            format!("{name} {field_type:?} {key} {merge:?} {} {stamp} {revision}", field.derived.is_some())
        };
        let fields: Vec<String> = self.fields.iter().map(field).collect();
        format!("{} {:?}: {}", self.name, self.kind, fields.join(", "))
    }

    /// All that decides what its rows are: the definition without what is only told to people or decides where they go.
    #[must_use]
    pub fn meaning(&self) -> String {
        let mut bare = self.clone();
        let docs = bare.fields.iter_mut().map(|field| &mut field.doc);
        let docs = docs.chain(bare.rules.iter_mut().map(|rule| &mut rule.doc));
        let docs = docs.chain(bare.references.iter_mut().map(|reference| &mut reference.doc));
        let docs = docs.chain(bare.group_rules.iter_mut().map(|rule| &mut rule.doc));
        docs.for_each(String::clear);
        bare.fields.iter_mut().for_each(|field| field.unit = None);
        bare.doc.clear();
        (bare.version, bare.criticality, bare.partition_fields) = ((0, 0), Criticality::Critical, 0);
        format!("{bare:?}")
    }
}

fn arrow_field(field: &Field, nullable: bool) -> ArrowField {
    ArrowField::new(&field.name, field.field_type.arrow(), nullable)
}

static ALL: LazyLock<Vec<Entity>> = LazyLock::new(|| {
    definition::parse_all(definition::EMBEDDED).unwrap_or_else(|fault| panic!("embedded definition is broken: {fault}"))
});

/// Every canonical entity, masters before the facts that cite them.
///
/// # Panics
/// Where an embedded definition is broken, which a unit test rules out.
#[must_use]
pub fn all() -> &'static [Entity] {
    &ALL
}

/// The entity of a name.
#[must_use]
pub fn get(name: &str) -> Option<&'static Entity> {
    all().iter().find(|entity| entity.name == name)
}
