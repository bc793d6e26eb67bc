//! A working day of the distributor, one business step at a time.
//!
//! Each step is one transaction over several tables, written as a function of the ERP (`erp/steps.sql`): one round trip,
//! so that one connection makes hundreds of steps a second. A [`Traffic`] draws its steps from a seed; the same seed
//! draws the same steps, and over a single connection gives the same rows but for their time stamps.

use tokio_postgres::Statement;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::error::DemoError;
use super::server::{self, Session};

/// A step that lost a deadlock is tried again; so often in a row means that something holds a lock for good.
pub(super) const ATTEMPTS_MAX: u32 = 20;

/// A kind of business step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A customer orders: head, lines, reservations.
    Order,
    /// An order leaves, whole or in part: lines, stock, postings.
    Ship,
    /// An order or a line is cancelled, its reservation released.
    Cancel,
    /// Quantities and dates of an order change.
    Amend,
    /// An order is placed with a supplier.
    Purchase,
    /// A supplier confirms or delivers.
    Receive,
    /// Somebody counts what lies there.
    Count,
    /// Stock moves from a centre to a branch.
    Transfer,
    /// Lots merge or split: rows come and go, the sum stays.
    Lots,
    /// Articles, bar codes, customers, suppliers and terms change.
    Master,
    /// Stamps and the ERP's own queue: nothing that planning cares about.
    Noise,
}

impl Step {
    const ALL: [(Self, &'static str); 11] = [
        (Self::Order, "step_order"),
        (Self::Ship, "step_ship"),
        (Self::Cancel, "step_cancel"),
        (Self::Amend, "step_amend"),
        (Self::Purchase, "step_purchase"),
        (Self::Receive, "step_receive"),
        (Self::Count, "step_count"),
        (Self::Transfer, "step_transfer"),
        (Self::Lots, "step_lots"),
        (Self::Master, "step_master"),
        (Self::Noise, "step_noise"),
    ];
}

/// How often each step comes, by weight, in the order of [`Step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mix(pub(crate) [u32; Step::ALL.len()]);

impl Mix {
    /// An ordinary day: what is ordered is shipped, what is bought arrives.
    pub(crate) const DAY: Self = Self([22, 20, 3, 6, 4, 6, 8, 6, 3, 7, 15]);

    fn draw(&self, random: &mut Random) -> usize {
        let total: u32 = self.0.iter().sum();
        let mut at = random.below(u64::from(total.max(1)));
        self.0
            .iter()
            .position(|weight| {
                let here = at < u64::from(*weight);
                at = at.saturating_sub(u64::from(*weight));
                here
            })
            .unwrap_or(0)
    }
}

/// What one [`Traffic`] has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Steps committed.
    pub(crate) steps: u64,
    /// Rows they wrote, about.
    pub(crate) rows: u64,
    /// Deadlocks lost and tried again.
    pub(crate) conflicts: u64,
}

/// One connection that makes steps.
#[derive(Debug)]
pub(crate) struct Traffic {
    session: Session,
    statements: Vec<Statement>,
    mass: Statement,
    random: Random,
    mix: Mix,
    counts: Counts,
}

impl Traffic {
    /// Logs in to the database with the ERP.
    ///
    /// # Errors
    /// [`DemoError::Database`] where it is not there or is not the ERP.
    pub(crate) async fn new(connection: &str, seed: u64, mix: Mix) -> Result<Self, DemoError> {
        let session = server::connect(connection).await.map_err(DemoError::database("log in for the traffic"))?;
        let client = &session.client;
        let prepare = DemoError::database("prepare the business steps");
        let prepared = async {
            client.batch_execute("SET search_path = meridian").await?;
            let mut statements = Vec::with_capacity(Step::ALL.len());
            for (_, function) in Step::ALL {
                statements.push(client.prepare(&format!("SELECT {function}($1)")).await?);
            }
            Ok((statements, client.prepare("SELECT mass_update($1, $2)").await?))
        };
        let (statements, mass) = prepared.await.map_err(prepare)?;
        Ok(Self { statements, mass, session, random: Random(seed), mix, counts: Counts::default() })
    }

    /// Makes the next step, committed when this returns.
    ///
    /// # Errors
    /// [`DemoError::Database`] where the server refuses it.
    pub(crate) async fn step(&mut self) -> Result<Step, DemoError> {
        let drawn = self.mix.draw(&mut self.random);
        let (step, function) = Step::ALL[drawn];
        let (statement, choices) = (self.statements[drawn].clone(), self.random.choices());
        self.call(function, &statement, &[&choices]).await?;
        Ok(step)
    }

    /// Rewrites about `rows` rows in one transaction: prices, which count, and costs, which do not.
    ///
    /// # Errors
    /// As [`Traffic::step`].
    pub(crate) async fn mass_update(&mut self, rows: i32) -> Result<(), DemoError> {
        let (statement, choices) = (self.mass.clone(), self.random.choices());
        self.call("mass_update", &statement, &[&choices, &rows]).await
    }

    async fn call(
        &mut self,
        function: &'static str,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<(), DemoError> {
        for _ in 0..ATTEMPTS_MAX {
            match self.session.client.query_one(statement, parameters).await {
                Ok(row) => {
                    self.counts.steps += 1;
                    self.counts.rows += u64::try_from(row.get::<_, i32>(0)).unwrap_or(0);
                    return Ok(());
                }
                Err(error) if is_conflict(&error) => self.counts.conflicts += 1,
                Err(error) => return Err(DemoError::database(format!("make {function}"))(error)),
            }
        }
        Err(DemoError::Stuck { function, attempts: ATTEMPTS_MAX })
    }

    /// What it has done so far.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }
}

fn is_conflict(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(code) if *code == SqlState::T_R_DEADLOCK_DETECTED || *code == SqlState::T_R_SERIALIZATION_FAILURE)
}

/// SplitMix64: one word of state, good enough to choose customers.
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// The number that a step draws its choices from; `pick` multiplies it by a million within 63 bits.
    pub(super) fn choices(&mut self) -> i64 {
        (self.next() >> 22).cast_signed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_day() {
        let day = |seed| {
            let mut random = Random(seed);
            (0..500).map(|_| (Mix::DAY.draw(&mut random), random.choices())).collect::<Vec<_>>()
        };
        assert_eq!(day(7), day(7));
        assert_ne!(day(7), day(8));
        assert!(day(7).iter().all(|(_, choices)| (0..1 << 42).contains(choices)));
    }

    #[test]
    fn every_step_of_the_mix_comes_and_a_weight_of_zero_never_does() {
        let mut random = Random(1);
        let mut mix = Mix::DAY;
        mix.0[3] = 0;
        let mut seen = [0_u32; Step::ALL.len()];
        for _ in 0..5_000 {
            seen[mix.draw(&mut random)] += 1;
        }
        assert_eq!(seen[3], 0);
        assert!(seen.iter().enumerate().all(|(i, times)| i == 3 || *times > 20), "{seen:?}");
    }
}
