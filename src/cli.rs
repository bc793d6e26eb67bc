//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Keeps a distributor's ERP, warehouses and demand planning in line.
#[derive(Debug, Parser)]
#[command(name = "syncline", version, propagate_version = true)]
pub(crate) struct Cli {
    /// The configuration file.
    #[arg(short, long, global = true, default_value = "syncline.toml", value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// How log lines look.
    #[arg(long, global = true, default_value = "text", value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon.
    Run(RunArgs),
    /// Check configuration, sources, rights, mappings and sinks without changing anything.
    Check(CheckArgs),
    /// Show what the running daemon is doing.
    Status(StatusArgs),
    /// List the rows that the running daemon holds, show one, or put one aside.
    Exceptions(ExceptionsArgs),
    /// List the rows that targets refused, show one, have some sent again, change one or give one up.
    DeadLetters(DeadLettersArgs),
    /// Show what the rows of a mapping give now, held ones with their reasons.
    Preview(PreviewArgs),
    /// Show the source rows that a canonical row is made of.
    Explain(ExplainArgs),
    /// Show what changed mappings would change, or have the daemon apply them; or send a target again what it should have.
    Replay(ReplayArgs),
    /// Have a source's table read anew, or keep the tables of a lake as they are, under a tag.
    Snapshot(SnapshotArgs),
    /// List what there is in the lakes: tables, the cut, snapshots and their tags.
    Tables(TablesArgs),
    /// Ask a lake in SQL: its tables as of the last flush or of another time, every version, snapshots.
    Query(QueryArgs),
    /// Write the planning contract for whoever builds a receiver, or compare it with an older one.
    Schemas(SchemasArgs),
    /// Run the reference receiver of the planning contract, or try one of your own.
    Planner(Box<PlannerArgs>),
    /// Show everything at work on a sample distributor: its ERP on a private PostgreSQL, its warehouse on a private MariaDB.
    Demo(DemoArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// End with code 0 as soon as everything that the sources hold at the start is confirmed by every sink.
    #[arg(long)]
    pub(crate) drain: bool,
    /// Like --drain, but up to a given position of a PostgreSQL source, as in erp=16/B374D848.
    #[arg(long, value_name = "SOURCE=POSITION")]
    pub(crate) until: Vec<String>,
    /// Print a summary as the last line of standard output.
    #[arg(long, value_name = "FORMAT")]
    pub(crate) summary: Option<SummaryFormat>,
}

/// How a summary looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SummaryFormat {
    /// One JSON object.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Print the script that prepares each source with the least rights, and the one that undoes it.
    #[arg(long)]
    pub(crate) sql: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Print everything as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExceptionsArgs {
    /// Print everything as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: ExceptionsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExceptionsCommand {
    /// List what is held and was not put aside; what waits for a master, once it has waited for park_ttl.
    List {
        /// Of one mapping, as in erp/item.
        #[arg(long, value_name = "SOURCE/FILE")]
        mapping: Option<String>,
        /// Of one entity.
        #[arg(long)]
        entity: Option<String>,
        /// Under one rule, as in DQ_REF_ITEM.
        #[arg(long)]
        rule: Option<String>,
        /// Those that were put aside, and those that have just begun to wait for a master, as well.
        #[arg(long)]
        all: bool,
        /// So many at most.
        #[arg(long, default_value_t = 100, value_name = "ROWS")]
        limit: usize,
    },
    /// Show one with its reason, its key and where it was seen.
    Show {
        /// As listed.
        fingerprint: String,
    },
    /// Put one aside until its row is found wanting again.
    Resolve(SayArgs),
    /// Put one aside for as long as its row is held.
    Waive(SayArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SayArgs {
    /// As listed.
    pub(crate) fingerprint: String,
    /// Why, for whoever looks next.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub(crate) note: String,
}

#[derive(Debug, Args)]
pub(crate) struct DeadLettersArgs {
    /// Print everything as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: DeadLettersCommand,
}

/// Which rows.
#[derive(Debug, Clone, Args)]
pub(crate) struct LettersWanted {
    /// Of one sink.
    #[arg(long, value_name = "SINK")]
    pub(crate) sink: Option<String>,
    /// Of one entity.
    #[arg(long)]
    pub(crate) entity: Option<String>,
    /// With one reason, as in unknown_item.
    #[arg(long)]
    pub(crate) code: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// List them, oldest first within an entity.
    List {
        #[command(flatten)]
        wanted: LettersWanted,
        /// So many at most.
        #[arg(long, default_value_t = 100, value_name = "ROWS")]
        limit: usize,
    },
    /// Show one with its values and the reason.
    Show {
        /// As listed.
        id: String,
    },
    /// Have one sent again, or all that fit, whatever the target said of later attempts.
    Retry {
        /// As listed; all of them where none is named.
        #[arg(conflicts_with_all = ["sink", "entity", "code"])]
        id: Option<String>,
        #[command(flatten)]
        wanted: LettersWanted,
        /// Why, for the daemon's log.
        #[arg(long, default_value = "", value_name = "TEXT")]
        note: String,
    },
    /// Change fields of one and have it sent again; the next change at the source has its own values.
    Edit {
        /// As listed.
        id: String,
        /// A field and its new value, as in uom=EA; without a value it is empty.
        #[arg(long, required = true, value_name = "FIELD=VALUE")]
        set: Vec<String>,
        /// Why, for the daemon's log.
        #[arg(long, default_value = "", value_name = "TEXT")]
        note: String,
    },
    /// Give one up: the target goes without this version of the row.
    Drop {
        /// As listed.
        #[arg(required_unless_present = "unlisted")]
        id: Option<String>,
        /// Instead, those that are only counted, once they are mended.
        #[arg(long, conflicts_with = "id")]
        unlisted: bool,
        /// With --unlisted, of one sink.
        #[arg(long, requires = "unlisted", value_name = "SINK")]
        sink: Option<String>,
        /// Why, for the daemon's log.
        #[arg(long, default_value = "", value_name = "TEXT")]
        note: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PreviewArgs {
    /// The mapping, as in erp/item.
    #[arg(value_name = "SOURCE/FILE")]
    pub(crate) mapping: String,
    /// Only the row with this key of the source table, or of the entity where the row was ever good: its values with commas
    /// between, in the order of that key.
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// So many at most.
    #[arg(long, default_value_t = 20, value_name = "ROWS")]
    pub(crate) limit: usize,
    /// Print everything as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The entity, as in inventory_balance.
    pub(crate) entity: String,
    /// The values of its key with commas between; empty ones at the end may be left out.
    pub(crate) key: String,
    /// So many at most.
    #[arg(long, default_value_t = 100, value_name = "ROWS")]
    pub(crate) limit: usize,
    /// Print everything as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// Send a target again what it should have, instead of looking at mappings: the current rows, those that differ or all.
    #[arg(value_name = "SINK")]
    pub(crate) sink: Option<String>,
    /// Of a sink: take away what the target has beyond the current rows.
    #[arg(long, requires = "sink", conflicts_with_all = ["from", "key"])]
    pub(crate) full: bool,
    /// Of a sink: deltas behind a log offset or from a time on, as in 2026-05-26T22:00:00Z, instead of current rows.
    #[arg(long, requires = "sink", value_name = "OFFSET|TIME")]
    pub(crate) from: Option<String>,
    /// Of a sink: this entity only; can be given several times.
    #[arg(long, requires = "sink", value_name = "ENTITY")]
    pub(crate) entity: Vec<String>,
    /// Of a sink: one row of the entity, the values of its key with commas between; a comma within one is written \,
    #[arg(long, requires = "entity", value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// Of a sink: a word on why, for the record.
    #[arg(long, requires = "sink", default_value = "")]
    pub(crate) note: String,
    /// Of a sink: show what is still to be sent, and what was.
    #[arg(long, requires = "sink", conflicts_with_all = ["full", "from", "entity"])]
    pub(crate) list: bool,
    /// Change nothing: show what would be added, changed and removed, and how totals would move.
    #[arg(long, conflicts_with = "sink")]
    pub(crate) dry_run: bool,
    /// With --dry-run, list rows that differ as well.
    #[arg(long, requires = "dry_run")]
    pub(crate) diff: bool,
    /// With --diff, so many rows of each entity; 20 where it is not given.
    #[arg(long, requires = "diff", value_name = "ROWS")]
    pub(crate) limit: Option<usize>,
    /// Read all sources again even where the log still holds everything, and where no mapping has changed.
    #[arg(long, conflicts_with_all = ["dry_run", "sink"])]
    pub(crate) reread: bool,
    /// With --dry-run or --list, print everything as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    /// A source, as in erp, with a table; or a sink that is a lake, with a tag.
    #[arg(value_name = "SOURCE|LAKE")]
    pub(crate) name: String,
    /// Of a source: the table that the running daemon is to read anew, with its schema, as in public.orders. What the source
    /// has no more is taken back.
    #[arg(value_name = "SCHEMA.TABLE")]
    pub(crate) table: Option<String>,
    /// Of a lake: keep all current tables of the last flush as Parquet files under this name, as in cycle-31.
    #[arg(long, conflicts_with_all = ["table", "drop"], value_name = "TAG")]
    pub(crate) tag: Option<String>,
    /// With --tag: a word that is the same whenever this order is repeated, for schedulers that try again.
    #[arg(long, requires = "tag", value_name = "WORD")]
    pub(crate) order: Option<String>,
    /// Of a lake: give up the snapshot of this name, and remove its files.
    #[arg(long, conflicts_with = "table", value_name = "TAG")]
    pub(crate) drop: Option<String>,
    /// With --tag: print the manifest.
    #[arg(long, requires = "tag")]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TablesArgs {
    /// Of this lake only.
    #[arg(value_name = "LAKE")]
    pub(crate) sink: Option<String>,
    /// Print everything as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    /// One question, as in 'SELECT location_id, sum(on_hand) FROM inventory_balance GROUP BY 1'; read from standard input where
    /// it is not given. Tables are item or current.item, history.item, snapshots."cycle-31".item.
    pub(crate) sql: Option<String>,
    /// Which lake, where there are several.
    #[arg(long, value_name = "SINK")]
    pub(crate) lake: Option<String>,
    /// Current tables as of a time, as in 2026-05-26T22:00:00Z, or as a snapshot has them.
    #[arg(long, value_name = "TIME|TAG")]
    pub(crate) at: Option<String>,
    /// What sorts, groups and joins may hold in memory; sorts and groups go to temporary files beyond it.
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    pub(crate) memory: usize,
    /// How the answer looks; as the name of the output ends where it is not given.
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<QueryFormat>,
    /// Write the answer into this file.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// How an answer looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum QueryFormat {
    /// For people, the first 1,000 rows.
    Table,
    /// With a header; what has no value is empty.
    Csv,
    /// One array of objects.
    Json,
    /// One JSON object a line.
    Ndjson,
    /// Into a file only.
    Parquet,
}

#[derive(Debug, Args)]
pub(crate) struct SchemasArgs {
    #[command(subcommand)]
    pub(crate) command: SchemasCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SchemasCommand {
    /// Write the OpenAPI and AsyncAPI descriptions and the JSON Schema of each entity into a folder.
    Export {
        /// Only this description, with the schemas that it refers to.
        #[arg(long, value_name = "FORMAT")]
        format: Option<ContractFormat>,
        /// Where to.
        dir: PathBuf,
    },
    /// Fail where whoever reads the schemas of a folder could misread rows of this version.
    Check {
        /// A folder that an older version exported.
        #[arg(long, value_name = "DIR")]
        against: PathBuf,
    },
}

/// A description of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ContractFormat {
    /// What is asked and answered: `openapi.json`.
    Openapi,
    /// What is said without being asked for: `asyncapi.json`.
    Asyncapi,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct PlannerArgs {
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
    #[command(subcommand)]
    pub(crate) command: Option<PlannerCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PlannerCommand {
    /// Try whether a receiver keeps the planning contract, with rows of a company of its own; code 1 where it does not.
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:7080", value_name = "HOST:PORT")]
    pub(crate) listen: SocketAddr,
    /// The SQLite file that keeps what was received.
    #[arg(long, default_value = "planner.db", value_name = "FILE")]
    pub(crate) db: PathBuf,
    /// Who is told of published planning outputs, as in http://127.0.0.1:7070/hooks/outputs/plan.
    #[arg(long, value_name = "URL", requires = "outputs_hook_key")]
    pub(crate) outputs_hook: Vec<reqwest::Url>,
    /// The file with the key that signs what they are told: whsec_ and base64.
    #[arg(long, value_name = "FILE")]
    pub(crate) outputs_hook_key: Option<PathBuf>,
    /// Share of requests answered with 500, 0 to 1.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) error_rate: f64,
    /// Share of requests answered with 429 and Retry-After, 0 to 1.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) throttle_rate: f64,
    /// Share of requests that are applied and then not answered, 0 to 1.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) drop_reply_rate: f64,
    /// Check and count rows, and keep none: to measure a sender.
    #[arg(long)]
    pub(crate) forget: bool,
    /// Milliseconds before each answer.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub(crate) latency_ms: u64,
    /// Seed of the faults.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Let in who sends the bearer token that this file holds.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Let in who sends this user and password: the file holds both with a colon between.
    #[arg(long, value_name = "FILE")]
    pub(crate) basic_file: Option<PathBuf>,
    /// Let in who sends the key that this file holds in X-Api-Key.
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Give tokens at /oauth2/token for this client and secret, with a colon between, and let in who sends one.
    #[arg(long, value_name = "FILE")]
    pub(crate) client_file: Option<PathBuf>,
    /// Let in who signs requests with the key that this file holds: whsec_ and base64.
    #[arg(long, value_name = "FILE")]
    pub(crate) signing_key_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The base of the receiver, as in http://127.0.0.1:7080/pdx/v1.
    pub(crate) url: String,
    /// With rows of this entity; can be given several times. One that suits where none is given.
    #[arg(long, value_name = "ENTITY")]
    pub(crate) entity: Vec<String>,
    /// The company of all rows; no other is touched.
    #[arg(long, default_value = syncline_sinks::conformance::COMPANY, value_name = "COMPANY")]
    pub(crate) company: String,
    /// Also an entity that another source writes.
    #[arg(long)]
    pub(crate) force: bool,
    /// A file that holds the bearer token.
    #[arg(long, value_name = "FILE", group = "proof")]
    pub(crate) token_file: Option<PathBuf>,
    /// A file that holds user and password with a colon between.
    #[arg(long, value_name = "FILE", group = "proof")]
    pub(crate) basic_file: Option<PathBuf>,
    /// A header and a file that holds its value, as in X-Api-Key=/etc/key.
    #[arg(long, value_name = "HEADER=FILE", group = "proof")]
    pub(crate) api_key: Option<String>,
    /// A file that holds the key with which requests are signed, beside any of the others.
    #[arg(long, value_name = "FILE")]
    pub(crate) signing_key_file: Option<PathBuf>,
    /// A file with the authorities that TLS trusts instead of the system's.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Print everything as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Run a bounded amount of traffic, drain, compare both ends, print a summary and end.
    #[arg(long)]
    pub(crate) drain: bool,
    /// Keep everything in this folder instead of a temporary one.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) dir: Option<PathBuf>,
    /// Opening books and a day in small, for tests.
    #[arg(long, hide = true)]
    pub(crate) small: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receiver_still_starts_with_its_own_flags_and_a_trial_takes_none_of_them() {
        let parsed = |line: &str| Cli::try_parse_from(line.split(' '));
        let planner = |line: &str| match parsed(line).map(|cli| cli.command) {
            Ok(Command::Planner(args)) => *args,
            other => panic!("{line}: {other:?}"),
        };
        let serves = planner("syncline planner --listen 127.0.0.1:0 --db p.db --token-file t");
        assert!(serves.command.is_none() && serves.serve.listen.port() == 0);
        assert_eq!(serves.serve.token_file, Some(PathBuf::from("t")));
        assert!(planner("syncline planner").command.is_none());
        let tries =
            planner("syncline planner verify http://h/pdx/v1 --entity item --entity location --signing-key-file k");
        let Some(PlannerCommand::Verify(args)) = tries.command else { panic!("no trial") };
        assert_eq!((args.entity.len(), args.company.as_str(), args.force), (2, "SYNCLINE-VERIFY", false));
        for line in [
            "syncline planner --listen 127.0.0.1:0 verify http://h/pdx/v1",
            "syncline planner verify http://h/pdx/v1 --token-file t --basic-file b",
            "syncline planner verify",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
