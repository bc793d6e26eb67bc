//! A table of the lake as DataFusion scans it: Parquet files of known sizes, with null for columns that a file lacks.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::DataFusionError;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use syncline_sinks::lake::TableView;

/// Where the lake's files are within a session.
pub(super) fn store_url() -> ObjectStoreUrl {
    ObjectStoreUrl::parse("lake://files").expect("a URL")
}

/// A table at one moment.
#[derive(Debug)]
pub(super) struct LakeTable(pub(super) TableView);

#[async_trait]
impl TableProvider for LakeTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let Self(TableView { schema, files, .. }) = self;
        if files.is_empty() {
            let schema = match projection {
                Some(columns) => Arc::new(schema.project(columns)?),
                None => Arc::clone(schema),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let rows = files.iter().map(|file| file.rows).sum::<Option<usize>>();
        let rows = rows.map_or(Precision::Absent, Precision::Exact);
        let statistics = Statistics { num_rows: rows, ..Statistics::new_unknown(schema) };
        let group = files.iter().map(|file| PartitionedFile::new(file.path.to_string(), file.size));
        let source = Arc::new(ParquetSource::new(Arc::clone(schema)));
        let scan = FileScanConfigBuilder::new(store_url(), source)
            .with_file_group(FileGroup::new(group.collect()))
            .with_projection_indices(projection.cloned())?
            .with_statistics(statistics)
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(scan))
    }
}
