//! The proof at the end of a drained demo: source and planner, key by key and value by value.
//!
//! A mapping is SQL that PostgreSQL runs as well, so the source's side is the mapping over today's tables. What the planner
//! holds is paged out of it and copied into temporary tables beside the ERP, where one statement per entity joins the
//! two. Numbers are compared as exact decimals, instants as instants.
//!
//! Not compared: fields that no mapping gives (they come from definitions, not from the source), and rows of a summed
//! entity that are zero everywhere, which stay at the planner when the last contribution has gone.

use std::fmt;
use std::io::Cursor;

use futures::SinkExt as _;
use serde::Deserialize;
use serde_json::Value;
use syncline_schemas::entity::{Entity, Field, Kind, Merge};
use tokio_postgres::Client;

use super::erp;
use super::error::DemoError;
use super::expected::{Expected, Part, parts, quoted, source_sql, sql_type, take};
use super::{server, setup};

/// Rows asked for at once; the planner gives no more.
const PAGE_ROWS: usize = 10_000;

/// How one entity compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// The entity.
    pub(crate) entity: &'static str,
    /// Rows that the source's tables give now.
    pub(crate) source: i64,
    /// Rows that the planner holds.
    pub(crate) planner: i64,
    /// Keys that the planner lacks.
    pub(crate) missing: i64,
    /// Keys that only the planner has.
    pub(crate) surplus: i64,
    /// Keys of both with another value.
    pub(crate) different: i64,
}

impl Comparison {
    /// True where nothing is missing, too much, or another value.
    pub(crate) fn agrees(&self) -> bool {
        self.missing == 0 && self.surplus == 0 && self.different == 0
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.agrees() { "agree" } else { "DIFFER" };
        write!(
            f,
            "  {:<20} {:>9} {:>9} {:>9} {:>9} {:>9}  {verdict}",
            self.entity, self.source, self.planner, self.missing, self.surplus, self.different
        )
    }
}

/// The heading over [`Comparison`]s.
pub(crate) const HEADING: &str = "  entity                  source   planner   missing   surplus different";

const HELD: &str = "CREATE TEMPORARY TABLE held (key jsonb NOT NULL, data jsonb NOT NULL); SET timezone = 'UTC'";

#[derive(Deserialize)]
struct Page {
    rows: Vec<HeldRow>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct HeldRow {
    key: Value,
    data: Option<Value>,
}

/// Compares every entity that a mapping fills.
///
/// # Errors
/// [`DemoError`] where the planner or the database does not answer; a difference is no error here.
pub(crate) async fn compare(
    connection: &str,
    planner: &str,
    expected: Expected<'_>,
) -> Result<Vec<Comparison>, DemoError> {
    let session = server::connect(connection).await.map_err(DemoError::database("log in for the comparison"))?;
    let client = &session.client;
    client.batch_execute(HELD).await.map_err(DemoError::database("make room for the planner's rows"))?;
    for (nth, foreign) in expected.foreign.iter().enumerate() {
        take(client, nth, foreign).await?;
    }
    let mut comparisons = Vec::new();
    for entity in erp::mapped() {
        fetch(client, planner, entity).await?;
        comparisons.push(compare_entity(client, entity, expected).await?);
    }
    Ok(comparisons)
}

/// Copies what the planner holds of an entity into `held`.
async fn fetch(client: &Client, planner: &str, entity: &Entity) -> Result<(), DemoError> {
    let refused = || DemoError::database(format!("take the planner's rows of {}", entity.name));
    client.batch_execute("TRUNCATE held").await.map_err(refused())?;
    let copy = client.copy_in::<_, Cursor<Vec<u8>>>("COPY held FROM STDIN").await.map_err(refused())?;
    futures::pin_mut!(copy);
    let http = setup::http();
    let mut after = String::new();
    loop {
        let mut url = reqwest::Url::parse(planner)
            .map_err(|error| DemoError::Answer { url: planner.to_owned(), reason: format!("is no url: {error}") })?;
        url.set_path(&format!("/entities/{}", entity.name));
        url.query_pairs_mut().append_pair("limit", &PAGE_ROWS.to_string()).append_pair("after", &after);
        let page: Page = ask(&http, url).await?;
        let mut lines = String::new();
        for row in page.rows {
            let Some(data) = row.data else { continue };
            push_copy_text(&mut lines, &row.key.to_string());
            lines.push('\t');
            push_copy_text(&mut lines, &data.to_string());
            lines.push('\n');
        }
        copy.send(Cursor::new(lines.into_bytes())).await.map_err(refused())?;
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    copy.finish().await.map_err(refused())?;
    Ok(())
}

async fn ask<T: serde::de::DeserializeOwned>(http: &reqwest::Client, url: reqwest::Url) -> Result<T, DemoError> {
    let text = url.to_string();
    let fault = |source| DemoError::Planner { url: text.clone(), source };
    http.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(fault)?.json().await.map_err(fault)
}

/// COPY's text format gives tab, newline and backslash a meaning.
fn push_copy_text(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
}

async fn compare_entity(
    client: &Client,
    entity: &'static Entity,
    expected: Expected<'_>,
) -> Result<Comparison, DemoError> {
    let refused = DemoError::database(format!("compare {}", entity.name));
    let parts = parts(client, entity, expected).await?;
    let row = client.query_one(&comparison_sql(entity, &parts), &[]).await.map_err(refused)?;
    Ok(Comparison {
        entity: &entity.name,
        source: row.get(0),
        planner: row.get(1),
        missing: row.get(2),
        surplus: row.get(3),
        different: row.get(4),
    })
}

/// One row: rows of the source, rows held, missing, surplus, different.
fn comparison_sql(entity: &Entity, parts: &[Part]) -> String {
    let (keys, others) = entity.fields.split_at(entity.key_len());
    let summed = entity.kind == Kind::Summed;
    let given = |field: &&Field| parts.iter().any(|part| part.gives(field));
    let values: Vec<&Field> =
        others.iter().filter(given).filter(|field| !summed || field.merge == Merge::Sum).collect();
    let names = |fields: &[&Field]| fields.iter().map(|field| quoted(&field.name)).collect::<Vec<_>>();
    let key_names = names(&keys.iter().collect::<Vec<_>>());
    let value_names = names(&values);

    let source = source_sql(keys, &values, parts, summed);
    let held: Vec<String> = keys
        .iter()
        .map(|field| held_value("key", field))
        .chain(values.iter().map(|field| held_value("data", field)))
        .collect();
    let key = key_names.join(", ");
    let pairs = |side: &str| value_names.iter().map(|name| format!("{side}.{name}")).collect::<Vec<_>>().join(", ");
    let not_zero = if summed {
        value_names.iter().map(|name| format!("coalesce(h.{name}, 0) <> 0")).collect::<Vec<_>>().join(" OR ")
    } else {
        "true".to_owned()
    };
    format!(
        "WITH s AS ({source}), h AS (SELECT {}, true AS held FROM held)
         SELECT count(s.given), count(h.held), count(*) FILTER (WHERE h.held IS NULL),
                count(*) FILTER (WHERE s.given IS NULL AND ({not_zero})),
                count(*) FILTER (WHERE s.given AND h.held AND ROW({}) IS DISTINCT FROM ROW({}))
         FROM s FULL JOIN h USING ({key})",
        held.join(", "),
        pairs("s"),
        pairs("h"),
    )
}

fn held_value(side: &str, field: &Field) -> String {
    let name = quoted(&field.name);
    format!("CAST({side} ->> '{}' AS {}) AS {name}", field.name, sql_type(field.field_type))
}

#[cfg(test)]
mod tests {
    use super::super::erp::Scale;
    use super::super::expected::Foreign;
    use super::super::server::Server;
    use super::super::server::tests::open_folder;
    use super::super::traffic::{Mix, Traffic};
    use super::super::warehouse;
    use super::*;
    use syncline_schemas::entity;

    #[test]
    fn copied_text_keeps_its_tabs_and_backslashes() {
        let mut out = String::new();
        push_copy_text(&mut out, "a\tb\\c\nd");
        assert_eq!(out, "a\\tb\\\\c\\nd");
    }

    /// Puts into `held` what a perfect planner would hold.
    async fn hold_everything(client: &Client, entity: &'static Entity, expected: Expected<'_>) {
        let (keys, data) = entity.fields.split_at(entity.key_len());
        let parts = parts(client, entity, expected).await.expect("the mappings run");
        let values: Vec<&Field> = data.iter().filter(|field| parts.iter().any(|part| part.gives(field))).collect();
        let object = |fields: &[&Field]| {
            let pairs: Vec<String> = fields.iter().map(|field| format!("'{0}', \"{0}\"", field.name)).collect();
            format!("jsonb_build_object({})", pairs.join(", "))
        };
        let sql = format!(
            "TRUNCATE held; INSERT INTO held SELECT {}, {} FROM ({}) AS s",
            object(&keys.iter().collect::<Vec<_>>()),
            object(&values),
            source_sql(keys, &values, &parts, entity.kind == Kind::Summed)
        );
        client.batch_execute(&sql).await.expect("fill");
    }

    #[tokio::test]
    async fn after_a_day_of_traffic_a_lost_row_a_ghost_and_a_wrong_value_are_each_found() {
        let dir = open_folder();
        let server = Server::start(&dir.path().join("pg"), &[]).await.expect("start");
        erp::load(|database| server.connection(database), Scale::SHOP, "secret").await.expect("load");
        let connection = server.connection(erp::DATABASE);
        let mut traffic = Traffic::new(&connection, 42, Mix::DAY).await.expect("log in");
        for _ in 0..400 {
            traffic.step().await.expect("step");
        }
        traffic.mass_update(1_000).await.expect("mass update");
        assert!(traffic.counts().rows > 2_000, "{:?}", traffic.counts());

        let session = server::connect(&connection).await.expect("log in");
        session.client.batch_execute(HELD).await.expect("make room");
        for entity in erp::mapped() {
            hold_everything(&session.client, entity, Expected::ERP).await;
            let whole = compare_entity(&session.client, entity, Expected::ERP).await.expect("compare");
            assert!(whole.agrees() && whole.source > 0 && whole.source == whole.planner, "{whole:?}");
            let doctored = "DELETE FROM held WHERE ctid = (SELECT min(ctid) FROM held);
                 INSERT INTO held SELECT jsonb_set(key, '{company_id}', '\"ghost\"') || '{\"value\":\"ghost\"}', data FROM held LIMIT 1;";
            session.client.batch_execute(doctored).await.expect("doctor");
            let doctored = compare_entity(&session.client, entity, Expected::ERP).await.expect("compare");
            assert_eq!((doctored.missing, doctored.surplus), (1, 1), "{doctored:?}");
        }
        let balance = entity::get("inventory_balance").expect("it exists");
        hold_everything(&session.client, balance, Expected::ERP).await;
        let wrong =
            "UPDATE held SET data = data || '{\"on_hand\": \"0.000000001\"}' WHERE ctid = (SELECT max(ctid) FROM held)";
        session.client.batch_execute(wrong).await.expect("doctor");
        let compared = compare_entity(&session.client, balance, Expected::ERP).await.expect("compare");
        assert_eq!((compared.missing, compared.surplus, compared.different), (0, 0, 1), "{compared:?}");
        let zero =
            "INSERT INTO held SELECT jsonb_set(key, '{item_id}', '\"gone\"'), '{\"on_hand\": \"0\"}' FROM held LIMIT 1";
        session.client.batch_execute(zero).await.expect("doctor");
        let compared = compare_entity(&session.client, balance, Expected::ERP).await.expect("compare");
        assert_eq!(compared.surplus, 0, "a balance of zero is no ghost: {compared:?}");

        // A warehouse adds to the balances of an ERP that leaves its sites to it.
        let fields = &["company_id", "item_id", "location_id", "on_hand", "quality_hold", "blocked"];
        let rows = "0100\t100001\t0003\t12.5\t0\t1\n0100\tNEW\t0007\t3.000\t0\t0\n".to_owned();
        let foreign = [Foreign { entity: "inventory_balance", fields, rows }];
        take(&session.client, 0, &foreign[0]).await.expect("copy");
        let both = Expected { mappings: &warehouse::erp_mappings(), foreign: &foreign };
        hold_everything(&session.client, balance, both).await;
        let compared = compare_entity(&session.client, balance, both).await.expect("compare");
        assert!(compared.agrees() && compared.source == compared.planner, "{compared:?}");
        let alone = Expected { foreign: &[], ..both };
        let compared = compare_entity(&session.client, balance, alone).await.expect("compare");
        assert_eq!((compared.missing, compared.surplus, compared.different), (0, 1, 1), "{compared:?}");
        drop(session);
        drop(traffic);
        server.stop().await.expect("stop");
    }

    #[test]
    fn an_entity_that_differs_says_so() {
        let mut comparison = Comparison { entity: "item", source: 2, planner: 2, missing: 0, surplus: 0, different: 0 };
        assert!(comparison.agrees());
        comparison.different = 1;
        assert!(comparison.to_string().ends_with("DIFFER"));
    }
}
