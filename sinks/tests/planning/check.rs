//! What a check finds out before anything is sent.

use syncline_sinks::planner::Faults;
use syncline_sinks::planning::PlanningSink;
use syncline_sinks::{Class, SinkError};

use crate::target::Target;

#[tokio::test]
async fn a_target_that_does_not_answer_or_takes_less_is_found_before_the_first_batch() {
    let target = Target::start(Faults::default()).await;
    target.sink().check().await.expect("it takes everything");

    let mut greedy = target.config();
    greedy.max_records = 1_000_000;
    let error = check(PlanningSink::new(greedy)).await.to_string();
    assert!(
        error.contains("max_records of 10000") && error.ends_with("set max_records = 10000 in the sink"),
        "{error}"
    );

    let mut astray = target.config();
    astray.url = astray.url.join("/elsewhere").expect("a URL");
    assert_eq!(check(PlanningSink::new(astray)).await.class(), Class::Definite);

    let config = target.config();
    target.running.shutdown().await.expect("a clean stop");
    let error = check(PlanningSink::new(config)).await;
    assert_eq!(error.class(), Class::Transient, "{error}");
}

async fn check(sink: Result<PlanningSink, SinkError>) -> SinkError {
    sink.expect("sound settings").check().await.expect_err("does not fit")
}
