//! Which test shows which scenario, and is any left out?
//!
//! Tests name what they show in comments: `S 45, 50`, `OC 13-25` or `S 176; OC 1-12`. This reads the comments,
//! `scenarios/index.toml` and the decision records, and says what does not fit together.

use anyhow::Context as _;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

/// The list that a number belongs to, and the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Number(List, u32);

/// The two lists, by the prefix that comments and the index give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
enum List {
    /// Inputs, runs, sessions.
    S,
    /// Operations and peers.
    OC,
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}", self.0, self.1)
    }
}

/// One line of the index.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Plain(String),
    Full(Full),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Full {
    title: String,
    /// The decision record that changes what the scenario expects.
    #[serde(default)]
    amended: Option<String>,
    /// The later issue that brings it.
    #[serde(default)]
    issue: Option<String>,
}

/// The index and what was found for it.
pub(crate) struct Map {
    scenarios: BTreeMap<Number, (Full, Vec<String>)>,
    /// What does not fit together, one line each.
    pub(crate) faults: Vec<String>,
}

impl Map {
    /// How many are in which state.
    pub(crate) fn summary(&self) -> String {
        let mut states = BTreeMap::<_, u32>::new();
        for scenario in self.scenarios.values() {
            *states.entry(state(scenario)).or_default() += 1;
        }
        states.iter().map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")
    }
}

fn state((line, tests): &(Full, Vec<String>)) -> &'static str {
    match (tests.is_empty(), &line.amended, &line.issue) {
        (_, Some(_), _) => "amended",
        (false, None, _) => "shown",
        (true, None, Some(_)) => "later",
        (true, None, None) => "MISSING",
    }
}

/// Prints the table, or only what is wrong with it; `true` if nothing is.
pub(crate) fn run(root: &Path, check: bool) -> anyhow::Result<bool> {
    let map = map(root)?;
    if check {
        map.faults.iter().for_each(|fault| println!("{fault}"));
        println!("{}", map.summary());
        return Ok(map.faults.is_empty());
    }
    let mut table = String::new();
    for (number, scenario) in &map.scenarios {
        let (line, tests) = scenario;
        let _ = writeln!(table, "{:<6}  {:<8} {}", number.to_string(), state(scenario), line.title);
        let further = line.amended.iter().cloned().chain(line.issue.iter().map(|issue| format!("next: {issue}")));
        for detail in further.chain(tests.iter().cloned()) {
            let _ = writeln!(table, "                  {detail}");
        }
    }
    println!("{table}{}", map.summary());
    Ok(true)
}

/// Reads the index and the tree.
pub(crate) fn map(root: &Path) -> anyhow::Result<Map> {
    let path = root.join("scenarios/index.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let index: BTreeMap<List, BTreeMap<String, Line>> = toml::from_str(&text).context("scenarios/index.toml")?;
    let mut scenarios = BTreeMap::new();
    let lines = index.into_iter().flat_map(|(list, lines)| lines.into_iter().map(move |line| (list, line)));
    for (list, (number, line)) in lines {
        let line = match line {
            Line::Plain(title) => Full { title, amended: None, issue: None },
            Line::Full(full) => full,
        };
        let number = number.parse::<u32>().with_context(|| format!("scenarios/index.toml: {number:?} is no number"))?;
        scenarios.insert(Number(list, number), (line, Vec::new()));
    }
    let mut faults = Vec::new();
    let mut files = Vec::new();
    walk(&root.join("crates"), &mut files)?;
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let name = file.strip_prefix(root).expect("the walk began at the root").display().to_string();
        let mentions = if file.extension().is_some_and(|extension| extension == "rs") {
            in_rust(&name, &text, &mut faults)
        } else {
            in_scenario_file(&name, &text)
        };
        for (number, test) in mentions {
            match scenarios.get_mut(&number) {
                Some((_, tests)) if tests.contains(&test) => {}
                Some((_, tests)) => tests.push(test),
                None => faults.push(format!("{test} names scenario {number}, which is not in scenarios/index.toml")),
            }
        }
    }
    for (number, scenario) in &scenarios {
        if state(scenario) == "MISSING" {
            faults.push(format!("scenario {number} has no test: {}", scenario.0.title));
        }
        if let Some(record) = scenario.0.amended.as_ref().filter(|record| !root.join(record).is_file()) {
            faults.push(format!("scenario {number} is amended by {record}, which does not exist"));
        }
    }
    Ok(Map { scenarios, faults })
}

/// Rust sources and scenario files below `dir`.
fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let within = |folder: &str| path.components().any(|part| part.as_os_str() == folder);
        match path.extension().and_then(|extension| extension.to_str()) {
            _ if path.is_dir() => walk(&path, files)?,
            Some("rs") => files.push(path),
            Some("txt") if within("scenarios") => files.push(path),
            _ => {}
        }
    }
    Ok(())
}

/// What the comments of a Rust file name, each with the function it belongs to: the one it stands above, or in.
fn in_rust(file: &str, text: &str, faults: &mut Vec<String>) -> Vec<(Number, String)> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    // Tests live in `tests/`, in the testing kit, and below `#[cfg(test)]`; a comment elsewhere would show nothing.
    let all_tests = file.contains("/tests/") || file.contains("/testing");
    let first = if all_tests {
        0
    } else {
        lines.iter().position(|line| line.starts_with("#[cfg(test)]")).unwrap_or(lines.len())
    };
    let mut mentions = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(comment) = line.strip_prefix("//") else { continue };
        let numbers = numbers(comment.trim_start_matches(['/', '!']).trim_start());
        if numbers.is_empty() {
            continue;
        }
        let passed_over = |line: &&&str| !(line.is_empty() || line.starts_with("//") || line.starts_with("#["));
        let below = lines[at..].iter().find(passed_over).and_then(|line| function(line));
        let around = || lines[..at].iter().rev().find_map(|line| function(line));
        match below.or_else(around).filter(|_| at > first || all_tests) {
            Some(function) => mentions.extend(numbers.into_iter().map(|number| (number, format!("{file} {function}")))),
            None => faults.push(format!("{file}:{}: names a scenario, but belongs to no test", at + 1)),
        }
    }
    mentions
}

/// The name of the function that a line declares.
fn function(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("fn ").or_else(|| line.split_once(" fn ").map(|(_, rest)| rest))?;
    // Words of a sentence may hold " fn " too; only these stand before it in code.
    let before = &line[..line.len() - rest.len()];
    let known = ["pub", "pub(crate)", "pub(super)", "async", "const", "fn"];
    before.split_whitespace().all(|word| known.contains(&word)).then_some(())?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().filter(|name| !name.is_empty())
}

fn in_scenario_file(file: &str, text: &str) -> Vec<(Number, String)> {
    let comments = text.lines().filter_map(|line| line.trim().strip_prefix('#'));
    comments.flat_map(|comment| numbers(comment.trim_start())).map(|number| (number, file.to_owned())).collect()
}

/// The numbers of `S 3, 5-7; OC 4: words`; none if the text does not begin so.
fn numbers(comment: &str) -> Vec<Number> {
    let mut numbers = Vec::new();
    for part in comment.split(';') {
        let part = part.trim_start();
        let (list, rest) = match (part.strip_prefix("S "), part.strip_prefix("OC ")) {
            (Some(rest), _) => (List::S, rest),
            (_, Some(rest)) => (List::OC, rest),
            _ => break,
        };
        let end = rest.find(|c: char| !(c.is_ascii_digit() || [',', ' ', '-'].contains(&c))).unwrap_or(rest.len());
        for item in rest[..end].split(',') {
            let (from, to) = item.split_once('-').unwrap_or((item, item));
            let (Ok(from), Ok(to)) = (from.trim().parse::<u32>(), to.trim().parse::<u32>()) else { break };
            numbers.extend((from..=to).map(|number| Number(list, number)));
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_names_numbers_and_ranges_and_nothing_else() {
        let s = |numbers: &[u32]| numbers.iter().map(|number| Number(List::S, *number)).collect::<Vec<_>>();
        assert_eq!(numbers("S 45, 50"), s(&[45, 50]));
        assert_eq!(numbers("S 58-61: lanes"), s(&[58, 59, 60, 61]));
        assert_eq!(numbers("S 7 and more"), s(&[7]));
        assert_eq!(numbers("S 7, which 8 is not"), s(&[7]));
        assert_eq!(
            numbers("S 7; OC 1-2: both; S 3"),
            [Number(List::S, 7), Number(List::OC, 1), Number(List::OC, 2), Number(List::S, 3)]
        );
        assert_eq!(numbers("OC 4; words"), [Number(List::OC, 4)]);
        assert!(numbers("OC n names").is_empty());
        assert!(numbers("Sessions 3").is_empty());
        assert!(numbers("S x").is_empty());
    }

    #[test]
    fn a_comment_belongs_to_the_function_below_or_around_it() {
        let text = "/// Says much.\n/// S 1\n#[test]\nfn above() {\n    check();\n    // S 2\n    check();\n}\n";
        let mut faults = Vec::new();
        let found = in_rust("crates/core/tests/t.rs", text, &mut faults);
        let above = |number| (Number(List::S, number), "crates/core/tests/t.rs above".to_owned());
        assert_eq!(found, [above(1), above(2)]);
        assert!(faults.is_empty());
        assert!(in_rust("crates/core/src/t.rs", text, &mut faults).is_empty());
        assert_eq!(faults.len(), 2, "outside of tests a comment shows nothing");
    }
}
