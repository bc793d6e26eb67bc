//! Tables that mappings join: their rows in state, one copy for all mappings, with only the columns that any of them reads.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{Field, Schema, SchemaRef};
use syncline_schemas::ident::{LogOffset, SourceId, TableId};
use syncline_schemas::rowcode::{self, Rows};

use super::changes::Changes;
use super::index;
use super::join::JOIN_BYTES_MAX;
use super::overlay::Overlay;
use super::stored::{Layouts, dated, put_row, undated};
use crate::TransformError;
use crate::mapping::edge::JoinColumn;

/// A table that some mapping joins.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) id: u32,
    pub(super) source: SourceId,
    pub(super) table: TableId,
    /// Columns that are kept, by index in the table, and their shape.
    pub(super) columns: Vec<usize>,
    pub(super) schema: SchemaRef,
    pub(super) layout: u32,
    /// The ways it is joined other than by its key.
    pub(super) indexes: Vec<JoinIndex>,
}

/// Rows of a joined table by other columns than its key.
#[derive(Debug, Clone)]
pub(super) struct JoinIndex {
    pub(super) id: u32,
    pub(super) on: Vec<JoinColumn>,
}

/// Values under which a changed row is or was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Affected {
    /// The index; none for the key.
    pub(super) index: Option<u32>,
    pub(super) values: Vec<u8>,
    /// Row of the batch whose change it is.
    pub(super) row: usize,
}

impl JoinIndex {
    /// The values of its columns in rows: none where one of them is null, because null equals nothing.
    pub(super) fn values(&self, columns: &[ArrayRef], schema: &Schema) -> Result<Vec<Option<Vec<u8>>>, TransformError> {
        let missing = || TransformError::State("an indexed column is not kept".to_owned());
        let picked = self.on.iter().map(|on| {
            let (at, _) = schema.column_with_name(&on.name).ok_or_else(missing)?;
            Ok(Arc::clone(&columns[at]))
        });
        let picked: Vec<ArrayRef> = picked.collect::<Result<_, TransformError>>()?;
        let rows = rowcode::encode(&picked)?;
        let whole =
            |row: usize| picked.iter().all(|column| !column.is_null(row)) && rows.row(row).len() <= JOIN_BYTES_MAX;
        Ok((0..rows.len()).map(|row| whole(row).then(|| rows.row(row).to_vec())).collect())
    }

    fn schema(&self) -> Schema {
        Schema::new(self.on.iter().map(|on| Field::new(&on.name, on.data_type.clone(), true)).collect::<Vec<_>>())
    }
}

impl Joined {
    /// State key of a row.
    pub(super) fn row_key(&self, key: &[u8]) -> Vec<u8> {
        [&self.id.to_be_bytes(), key].concat()
    }

    /// Puts the changes of a frame into the overlay; gives the values under which something may be found differently now.
    /// Where the table is read anew, what stays as it was gets the log entry at hand, too.
    pub(super) fn apply(
        &self,
        at: LogOffset,
        changes: &Changes<'_>,
        renews: bool,
        layouts: &Layouts,
        overlay: &mut Overlay<'_>,
    ) -> Result<Vec<Affected>, TransformError> {
        let len = changes.changes.len();
        let keys: Vec<Vec<u8>> = (0..len).map(|i| self.row_key(changes.key(i))).collect();
        let old: Vec<Option<Vec<u8>>> =
            keys.iter().map(|key| Ok(overlay.row(key)?.map(Cow::into_owned))).collect::<Result<_, TransformError>>()?;
        let live: Vec<usize> = (0..len).filter(|&i| !changes.changes[i].removed).collect();
        let mut lacking: Vec<Vec<usize>> = vec![Vec::new(); len];
        let columns = self.gather(changes, &live, &old, layouts, &mut lacking)?;
        let rows = if columns.is_empty() { Rows::default() } else { rowcode::encode(&columns)? };
        let mut new: Vec<Option<Vec<u8>>> = vec![None; len];
        for (place, &i) in live.iter().enumerate() {
            let mut bytes = dated(at);
            put_row(&mut bytes, self.layout, &lacking[i], if columns.is_empty() { &[] } else { rows.row(place) });
            new[i] = Some(bytes);
        }
        let mut changed = Vec::new();
        for i in 0..len {
            if row_of(old[i].as_deref())? != row_of(new[i].as_deref())? {
                changed.push(i);
            }
        }
        let mut affected = Vec::new();
        for &i in &changed {
            let values = changes.key(i).to_vec();
            affected.push(Affected { index: None, values, row: changes.changes[i].last });
        }
        for join_index in &self.indexes {
            self.reindex(join_index, changes, &changed, [&old, &new], layouts, overlay, &mut affected)?;
        }
        let written = if renews { (0..len).collect() } else { changed };
        for i in written {
            overlay.put_row(keys[i].clone(), new[i].take());
        }
        Ok(affected)
    }

    /// The kept columns of the live changes, each value from where it was last seen.
    fn gather(
        &self,
        changes: &Changes<'_>,
        live: &[usize],
        old: &[Option<Vec<u8>>],
        layouts: &Layouts,
        lacking: &mut [Vec<usize>],
    ) -> Result<Vec<ArrayRef>, TransformError> {
        let whole = live.iter().all(|&i| !changes.is_partial(i));
        if whole {
            let picks = live.iter().map(|&i| u32::try_from(changes.changes[i].last).expect("a batch is small"));
            let picks = UInt32Array::from_iter_values(picks);
            let columns = self.columns.iter().map(|&c| take(changes.batch.rows.column(c), &picks, None));
            return Ok(columns.collect::<Result<_, _>>()?);
        }
        let mut columns = Vec::with_capacity(self.columns.len());
        for (at, &c) in self.columns.iter().enumerate() {
            let wanted = Schema::new(vec![self.schema.field(at).clone()]);
            let before = |origin: usize| stored_value(row_of(old[origin].as_deref())?, layouts, &wanted);
            let mut lacks = Vec::new();
            columns.push(changes.gather(c, live, &before, &mut lacks)?);
            lacks.into_iter().for_each(|row| lacking[live[row]].push(at));
        }
        Ok(columns)
    }

    #[expect(clippy::too_many_arguments, reason = "one step of apply, apart so that each fits on a page")]
    fn reindex(
        &self,
        join_index: &JoinIndex,
        changes: &Changes<'_>,
        changed: &[usize],
        [old, new]: [&[Option<Vec<u8>>]; 2],
        layouts: &Layouts,
        overlay: &mut Overlay<'_>,
        affected: &mut Vec<Affected>,
    ) -> Result<(), TransformError> {
        let mut moves: Vec<(usize, Vec<u8>, bool)> = Vec::new();
        for (side, there) in [(old, false), (new, true)] {
            let of: Vec<usize> = changed.iter().copied().filter(|&i| side[i].is_some()).collect();
            let values = self.indexed(join_index, of.iter().filter_map(|&i| side[i].as_deref()), layouts)?;
            moves.extend(of.into_iter().zip(values).filter_map(|(i, values)| Some((i, values?, there))));
        }
        // Removals first: a row that stays under its values is there in the end.
        for (i, values, there) in &moves {
            overlay.put_index(index::joined(join_index.id, values, changes.key(*i)), *there);
        }
        affected.extend(moves.into_iter().map(|(i, values, _)| Affected {
            index: Some(join_index.id),
            values,
            row: changes.changes[i].last,
        }));
        Ok(())
    }

    /// The values under which dated rows are indexed.
    pub(super) fn indexed<'r>(
        &self,
        join_index: &JoinIndex,
        rows: impl IntoIterator<Item = &'r [u8]>,
        layouts: &Layouts,
    ) -> Result<Vec<Option<Vec<u8>>>, TransformError> {
        let schema = join_index.schema();
        let rows = rows.into_iter().map(|row| Ok(undated(row)?.1)).collect::<Result<Vec<_>, TransformError>>()?;
        let read = layouts.read(rows, &schema)?;
        join_index.values(&read.columns, &schema)
    }
}

fn row_of(dated: Option<&[u8]>) -> Result<Option<&[u8]>, TransformError> {
    Ok(dated.map(undated).transpose()?.map(|(_, row)| row))
}

/// One value of a stored row; none where it was never sent.
pub(super) fn stored_value(
    row: Option<&[u8]>,
    layouts: &Layouts,
    wanted: &Schema,
) -> Result<Option<ArrayRef>, TransformError> {
    let Some(row) = row else { return Ok(None) };
    let mut read = layouts.read([row], wanted)?;
    Ok(if read.lacking.is_empty() { read.columns.pop() } else { None })
}
