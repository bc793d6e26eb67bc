//! Rows that the target refuses, as the people who run the daemon meet them: seen, mended, sent again or given up.

use serde_json::{Value, json};

use super::demo::erp::Scale;
use super::demo::setup;
use super::world::{World, eventually};

async fn letters(world: &World) -> Vec<Value> {
    let text = world.said(&["dead-letters", "list", "--json"]).await;
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    answer["letters"].as_array().expect("a list").clone()
}

async fn poison(world: &World, names: &[String]) {
    let poison: Vec<Value> =
        names.iter().map(|name| json!({ "field": "name", "value": name, "code": "closed_site" })).collect();
    let request =
        setup::http().post(format!("{}/faults", world.setup.planner_url())).json(&json!({ "poison": poison }));
    assert!(request.send().await.expect("the planner answers").status().is_success());
}

/// Keys and names of some sites as the planner has them.
async fn sites(world: &World) -> Vec<(String, String)> {
    let page = world.planner_json("/entities/location?limit=3").await.expect("the planner answers");
    let rows = page["rows"].as_array().expect("rows").iter();
    rows.map(|row| (row["key"].to_string(), row["data"]["name"].as_str().expect("a name").to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_rows_are_mended_given_up_or_sent_again_one_by_one_while_others_go_on() {
    let world = World::new(Scale::SHOP, &[]).await;
    world.drain().await;
    let before = sites(&world).await;
    let renamed: Vec<String> = before.iter().map(|(_, name)| format!("{name} new")).collect();
    poison(&world, &renamed).await;
    world.execute("UPDATE meridian.wh_site SET site_name = trim(site_name) || ' new'").await;
    let daemon = world.daemon();
    eventually("the daemon answers", || async { world.status().await.is_some() }).await;
    eventually("three are refused", || async { letters(&world).await.len() == 3 }).await;
    let listed = letters(&world).await;
    let id = |name: &str| {
        let (key, _) = before.iter().find(|(_, known)| known == name).expect("one of the three");
        let values: Value = serde_json::from_str(key).expect("a key");
        let of = |letter: &&Value| {
            let key: Value = serde_json::from_str(letter["key"].as_str().expect("a key")).expect("JSON");
            key["location_id"] == values["location_id"] || key["location_id"] == values[1]
        };
        listed.iter().find(of).expect("listed")["id"].as_str().expect("an id").to_owned()
    };
    let [mended, dropped, again] = [0, 1, 2].map(|at| id(&before[at].1));
    let shown = world.said(&["dead-letters", "show", &mended]).await;
    assert!(shown.contains("closed_site") && shown.contains(&format!("name = {}", renamed[0])), "{shown}");

    // Whatever is done about one, the others stay as they are.
    let refusal = world.command(&["dead-letters", "edit", &mended, "--set", "location_id=X"]).await;
    let text = String::from_utf8_lossy(&refusal.stderr).into_owned();
    assert!(text.contains("location_id: is a part of the key"), "{text}");
    world.said(&["dead-letters", "edit", &mended, "--set", "name=Mended", "--note", "typo"]).await;
    eventually("the mended one got through", || async { letters(&world).await.len() == 2 }).await;
    world.said(&["dead-letters", "drop", &dropped, "--note", "closed for good"]).await;
    assert_eq!(letters(&world).await.len(), 1);
    world.said(&["dead-letters", "retry", &again]).await;
    let tried = || async { letters(&world).await[0]["attempts"].as_u64() > Some(1) };
    eventually("it is refused once more", tried).await;
    poison(&world, &[]).await;
    world.said(&["dead-letters", "retry", "--code", "closed_site"]).await;
    eventually("nothing is refused", || async { letters(&world).await.is_empty() }).await;
    let names: Vec<String> = sites(&world).await.into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["Mended", before[1].1.as_str(), renamed[2].as_str()]);

    // The next change at the source outranks what was done here.
    world.execute("UPDATE meridian.wh_site SET region_cd = 'X' || left(region_cd, 1)").await;
    let agreed = || async { sites(&world).await.iter().zip(&renamed).all(|((_, name), renamed)| name == renamed) };
    eventually("the source's names are there", agreed).await;
    let unknown = world.command(&["dead-letters", "show", &again]).await;
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is no dead letter"), "it got through");
    daemon.stop().await.expect("the daemon stops");
    world.assert_planner_equals_source().await;
    world.end().await;
}
