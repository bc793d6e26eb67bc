//! `_syncline/cut.json`: the last flush that is complete in every table.
//!
//! Tables commit one after another, so between two of them a reader can see one ahead of another. The cut names the
//! version of each at one common offset: whoever reads those versions reads one state of the source. It is written last,
//! by one atomic put, and a daemon resumes from it; the tables' own transactions skip what is in them already. The first
//! cut, at offset 0, is there before any table: it says whose the lake is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::temporal_conversions::timestamp_us_to_datetime;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};
use serde::{Deserialize, Serialize};

use super::fault;
use super::store::Place;
use crate::SinkError;

const FORMAT: u32 = 1;
const NAME: &str = "_syncline/cut.json";

/// One state of the source, as versions of tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cut {
    format: u32,
    /// Who writes the lake.
    pub(super) pipeline: String,
    /// The state whose log offsets are meant; another data folder has another.
    pub(super) epoch: u32,
    /// The log offset that all tables have reached.
    pub(super) offset: u64,
    /// When it was written, UTC.
    pub(super) at: String,
    /// Delta version by table path, of every table that has ever been written.
    pub(super) tables: BTreeMap<String, u64>,
}

impl Cut {
    pub(super) fn new(pipeline: &str, epoch: u32, offset: u64, tables: BTreeMap<String, u64>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = i64::try_from(now.as_micros()).ok().and_then(timestamp_us_to_datetime);
        let at = at.map(|time| time.and_utc().to_rfc3339()).unwrap_or_default();
        Self { format: FORMAT, pipeline: pipeline.to_owned(), epoch, offset, at, tables }
    }

    /// Reads the lake's cut; `None` in a new lake.
    pub(super) async fn read(place: &Place) -> Result<Option<Self>, SinkError> {
        let files: Arc<dyn ObjectStore> = place.files();
        let found = match files.get(&Path::from(NAME)).await {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        let bytes = match found {
            Ok(bytes) => bytes,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(fault::store(place.target(), "read _syncline/cut.json", &error)),
        };
        let refused = |reason: String| SinkError::Refused {
            target: place.url_of(NAME).to_string(),
            reason,
            remedy: "restore the file, or delete the whole lake folder and start over".to_owned(),
        };
        let cut: Self = serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))?;
        if cut.format != FORMAT {
            return Err(refused(format!("format {} is not {FORMAT}; a newer Syncline wrote it", cut.format)));
        }
        Ok(Some(cut))
    }

    /// Puts the lake's first cut in place, which says whose the tables are before there is any.
    pub(super) async fn create(self, place: Place) -> Result<(), SinkError> {
        self.put(place, PutMode::Create).await
    }

    /// Replaces the lake's cut.
    pub(super) async fn write(self, place: Place) -> Result<(), SinkError> {
        self.put(place, PutMode::Overwrite).await
    }

    async fn put(self, place: Place, mode: PutMode) -> Result<(), SinkError> {
        let text = serde_json::to_vec_pretty(&self).expect("a cut is plain data");
        let put = place.files().put_opts(&Path::from(NAME), text.into(), mode.into()).await;
        put.map(drop).map_err(|error| fault::store(place.target(), "write _syncline/cut.json", &error))
    }
}
