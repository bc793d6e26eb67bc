//! A scalar function of ours as DataFusion calls it: what is the same for all of them.
//!
//! A [`Definition`] says what a function takes and gives and how a batch is computed; [`Function`] makes a DataFusion
//! function of it. Types, and literals where a value can be told right from wrong, are checked when a mapping is compiled.
//! Every function is immutable: the same row gives the same value on every machine and at every time.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::{Result, ScalarValue, plan_err};
use datafusion_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::arguments::Arguments;
use super::fault::Fault;
use super::{units, zones};
use crate::mapping::decimal;

/// What a position takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Integers, decimals, floats by their shortest text, and decimal text.
    Number,
    Text,
    /// The name of a rounding mode.
    Rounding,
    /// The name of a time zone.
    Zone,
    /// A timestamp without a zone.
    LocalTime,
    /// A timestamp with a zone.
    Instant,
    Date,
    /// A date or a timestamp of either kind.
    DateOrTime,
    /// Text or a number without decimals.
    Digits,
}

/// What a function is.
pub(super) struct Definition {
    pub(super) name: &'static str,
    /// Its parameters with their names.
    pub(super) takes: &'static [(&'static str, Takes)],
    /// How many of them must be given.
    pub(super) required: usize,
    /// True where the last parameter may be given any number of times.
    pub(super) repeats: bool,
    pub(super) gives: Gives,
    /// The values for a batch; rows with a null argument are not asked for.
    pub(super) run: fn(&Arguments) -> Result<ArrayRef, Fault>,
}

/// What comes out.
pub(super) enum Gives {
    Type(fn() -> DataType),
    /// The type of the first argument.
    First,
}

impl Takes {
    /// The type that values of a type are computed in; `None` for one that does not fit.
    fn normal(self, given: &DataType) -> Option<DataType> {
        let given = match given {
            DataType::Dictionary(_, values) => values.as_ref(),
            given => given,
        };
        let text = || {
            matches!(given, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null)
                .then_some(DataType::Utf8)
        };
        let if_fits = |fits: bool| fits.then(|| given.clone());
        match self {
            Self::Number if *given == DataType::Null => Some(DataType::Int64),
            Self::Number => text().or_else(|| if_fits(decimal::is_numeric(given))),
            Self::Text | Self::Rounding | Self::Zone => text(),
            Self::Digits => text().or_else(|| is_without_decimals(given).then_some(DataType::Utf8)),
            Self::Date | Self::DateOrTime if *given == DataType::Null => Some(DataType::Date32),
            Self::Date => if_fits(*given == DataType::Date32),
            Self::DateOrTime => if_fits(matches!(given, DataType::Date32 | DataType::Timestamp(_, _))),
            Self::LocalTime | Self::Instant if *given == DataType::Null => Some(super::instant()),
            Self::LocalTime => if_fits(matches!(given, DataType::Timestamp(_, None))),
            Self::Instant => if_fits(matches!(given, DataType::Timestamp(_, Some(_)))),
        }
    }

    /// What it wants, and how to get there from something else.
    fn wish(self) -> &'static str {
        match self {
            Self::Number => "a number or its text",
            Self::Text | Self::Rounding | Self::Zone => "text; write CAST(... AS VARCHAR)",
            Self::LocalTime => {
                "a timestamp without a zone; a date becomes one by CAST(... AS TIMESTAMP), and one with a zone is an instant already"
            }
            Self::Instant => {
                "a timestamp with a zone; local_to_utc(..., 'UTC') makes one of a timestamp that is UTC without saying so"
            }
            Self::Date => "a date; write CAST(... AS DATE)",
            Self::DateOrTime => "a date or a timestamp; write CAST(... AS DATE)",
            Self::Digits => "text or an integer",
        }
    }

    /// Says why a literal can never be right.
    fn check(self, literal: &ScalarValue) -> Result<(), String> {
        let Some(Some(text)) = literal.try_as_str() else { return Ok(()) };
        let outcome = match self {
            Self::Zone => zones::parse(text).map(|_| ()),
            Self::Rounding => units::rounding(text).map(|_| ()),
            _ => Ok(()),
        };
        outcome.map_err(|fault| format!("'{text}': {fault}"))
    }
}

fn is_without_decimals(given: &DataType) -> bool {
    let scale = match given {
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => *scale,
        given if given.is_integer() => 0,
        _ => return false,
    };
    scale == 0
}

impl Definition {
    /// The parameter at a position.
    fn parameter(&self, index: usize) -> Option<(&'static str, Takes)> {
        let last = || if self.repeats { self.takes.last() } else { None };
        self.takes.get(index).or_else(last).copied()
    }

    /// How it is called, as in `convert(qty, num, den[, mode])`.
    pub(super) fn usage(&self) -> String {
        let names = self.takes.iter().map(|(name, _)| *name);
        let (required, optional): (Vec<_>, Vec<_>) = names.enumerate().partition(|(index, _)| *index < self.required);
        let mut usage = required.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
        for (_, name) in &optional {
            usage.push_str(&format!("[, {name}"));
        }
        let more = if self.repeats { ", ..." } else { "" };
        format!("{}({usage}{more}{})", self.name, "]".repeat(optional.len()))
    }
}

/// A definition as a DataFusion function.
pub(super) struct Function {
    definition: &'static Definition,
    signature: Signature,
}

impl Function {
    pub(super) fn new(definition: &'static Definition) -> Self {
        // Types are checked by ourselves: DataFusion's own message would bury the remedy under candidates.
        Self { definition, signature: Signature::variadic_any(Volatility::Immutable) }
    }
}

// A name is one function.
impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.definition.name == other.definition.name
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.definition.name.hash(state);
    }
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.definition.name)
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.definition.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, given: &[DataType]) -> Result<DataType> {
        let usage = || self.definition.usage();
        if given.len() < self.definition.required {
            return plan_err!("{} takes more than {} argument(s)", usage(), given.len());
        }
        let mut normal = Vec::with_capacity(given.len());
        for (index, data_type) in given.iter().enumerate() {
            let Some((name, takes)) = self.definition.parameter(index) else {
                return plan_err!("{} takes less than {} arguments", usage(), given.len());
            };
            let Some(data_type) = takes.normal(data_type) else {
                return plan_err!("{}: {name} is {}, not {data_type}", usage(), takes.wish());
            };
            normal.push(data_type);
        }
        Ok(match self.definition.gives {
            Gives::Type(data_type) => data_type(),
            Gives::First => normal.swap_remove(0),
        })
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let given: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let data_type = self.return_type(&given)?;
        for (index, literal) in args.scalar_arguments.iter().enumerate() {
            if let (Some((name, takes)), Some(literal)) = (self.definition.parameter(index), literal)
                && let Err(reason) = takes.check(literal)
            {
                return plan_err!("{}: {name} {reason}", self.definition.usage());
            }
        }
        Ok(Arc::new(Field::new(self.name(), data_type, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let normal = |(index, value): (usize, ColumnarValue)| {
            let wanted = self.definition.parameter(index).and_then(|(_, takes)| takes.normal(&value.data_type()));
            match wanted {
                Some(wanted) if wanted != value.data_type() => value.cast_to(&wanted, None),
                _ => Ok(value),
            }
        };
        let values = args.args.into_iter().enumerate().map(normal).collect::<Result<Vec<_>>>()?;
        let arguments = Arguments::new(&values, args.number_rows, args.return_field.data_type())?;
        let result = if arguments.is_all_null() { arguments.nothing() } else { (self.definition.run)(&arguments)? };
        // DataFusion takes the one row that constants give for all rows.
        Ok(ColumnarValue::Array(result))
    }
}
