//! Rules for what people read: links lead somewhere, nothing that can be set or measured is left out, and nothing of a
//! developer's machine or of a package registry stands in the tree.

use crate::refuse;
use crate::tree::{File, files, root};

/// Targets of a page's Markdown links that lie in the tree.
fn local_links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    let paths = targets.map(|target| target.split_once('#').map_or(target, |(path, _)| path));
    paths.filter(|path| !path.is_empty() && !path.contains("://")).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands between the double quotes that follow each occurrence of `before`.
fn quoted_after(text: &str, before: &str) -> Vec<String> {
    let starts = text.split(before).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
    starts.filter_map(|rest| rest.split_once('"')).map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut breaches = Vec::new();
    for page in files().into_iter().filter(|file| file.path.ends_with(".md")) {
        let folder = root().join(&page.path).parent().expect("a file has a folder").to_owned();
        let broken = local_links(&page.text).into_iter().filter(|target| !folder.join(target).exists());
        breaches.extend(broken.map(|target| format!("{}: {target} is not there", page.path)));
    }
    refuse(&breaches);
}

#[test]
fn every_setting_is_explained() {
    let page = read("docs/configuration.md");
    let readers = ["section", "root", "reference"];
    let kinds =
        ["text", "required_text", "texts", "flag", "count", "duration", "choice", "secret", "section", "sections"];
    let mut settings = Vec::new();
    for file in files().into_iter().filter(|file| file.path.starts_with("src/config/") && file.is_rust()) {
        for call in readers.iter().flat_map(|reader| kinds.map(|kind| format!("{reader}.{kind}("))) {
            settings.extend(quoted_after(&file.text, &call));
        }
        settings.extend(quoted_after(&file.text, "url(section, "));
    }
    assert!(settings.len() > 20, "the settings are read in another way now; look for them anew");
    let missing = settings.into_iter().filter(|name| {
        !page.contains(&format!("`{name}`"))
            && !page.contains(&format!("`[{name}]`"))
            && !page.contains(&format!("`[{name}.<name>]`"))
    });
    let breaches: Vec<String> = missing.map(|name| format!("docs/configuration.md: say what {name} does")).collect();
    refuse(&breaches);
}

#[test]
fn every_metric_is_explained() {
    let page = read("docs/operations.md");
    let names: Vec<String> = quoted_after(&read("src/api/metrics.rs").replace("\"syncline_", "@\"syncline_"), "@");
    assert!(names.len() > 20, "the metrics are named in another way now; look for them anew");
    let missing = names.into_iter().filter(|name| !page.contains(&format!("`{name}`")));
    let breaches: Vec<String> = missing.map(|name| format!("docs/operations.md: say what {name} tells")).collect();
    refuse(&breaches);
}

/// Code with each string that goes on in the next line in one piece.
fn in_one_piece(code: &str) -> String {
    let mut lines = code.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    lines.fold(first, |joined, line| joined + line.trim_start())
}

/// What is literal in a quoted message: not `...`, not one of `this / that`, not a `<name>`, not a number called `N`.
fn literals(quote: &str) -> Vec<String> {
    let mut text = quote.replace("...", "\0").replace(" / ", "\0");
    while let Some((before, rest)) = text.split_once('<') {
        let after = rest.split_once('>').map_or("", |(_, after)| after);
        text = format!("{before}\0{after}");
    }
    let is_number = |word: &str| matches!(word.trim_end_matches([',', ':']).as_bytes(), [b'A'..=b'Z']);
    let words: Vec<&str> = text.split(' ').map(|word| if is_number(word) { "\0" } else { word }).collect();
    let text = words.join(" ");
    let parts = text.split('\0').map(|part| part.trim_matches([' ', ':', ',']));
    parts.filter(|part| part.len() > 2).map(str::to_owned).collect()
}

#[test]
fn every_message_that_is_explained_is_one_that_is_said() {
    let is_said = |file: &&File| file.is_rust() && file.path.split('/').any(|part| part == "src");
    let code: String = files().iter().filter(is_said).map(|file| in_one_piece(&file.text)).collect();
    let page = read("docs/operations.md");
    let (_, page) = page.split_once("## Messages and remedies").expect("the chapter is there");
    let cells = page.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let quotes: Vec<&str> = cells.flat_map(|cell| cell.split('`').step_by(2)).collect();
    assert!(quotes.len() > 50, "the messages are written in another way now; look for them anew");
    let mut breaches = Vec::new();
    for quote in quotes {
        let unsaid = literals(quote).into_iter().filter(|literal| !code.contains(literal));
        breaches.extend(unsaid.map(|it| format!("docs/operations.md: `{quote}`: no code says {it:?}")));
    }
    refuse(&breaches);
}

#[test]
fn a_quoted_message_is_taken_apart_where_the_code_puts_something_in() {
    assert_eq!(literals("<file>.sql:<line>: ..."), [".sql"]);
    assert_eq!(literals("it stands at A, and B / C of ... is gone"), ["it stands at", "and", "is gone"]);
}

#[test]
fn nothing_of_one_machine_or_of_a_registry_is_in_the_tree() {
    // Put together from parts, so that this file does not hold what it looks for.
    let banned = [
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
        concat!("/Us", "ers/"),
        concat!("/wo", "rk/"),
        concat!("crates", ".io"),
        concat!("pypi", ".org"),
        concat!("pythonhosted", ".org"),
        concat!("npmjs", ".org"),
        concat!("docker", ".io"),
        concat!("ghcr", ".io"),
        concat!("quay", ".io"),
        concat!("deb.debian", ".org"),
    ];
    // The lock file is cargo's own; the licence is not ours to word.
    let ours = |file: &File| !matches!(file.path.as_str(), "Cargo.lock" | "LICENSE");
    let mut breaches = Vec::new();
    for file in files().iter().filter(|file| ours(file)) {
        for text in banned {
            breaches.extend(file.places(|line| line.contains(text)).map(|place| format!("{place}: holds {text}")));
        }
    }
    refuse(&breaches);
}

#[test]
fn links_are_found_with_and_without_an_anchor() {
    let text = "see [a](docs/a.md), [b](b.md#part), [c](#here) and [d](https://example.com/d)";
    assert_eq!(local_links(text), ["docs/a.md", "b.md"]);
}
