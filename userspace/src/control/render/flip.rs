//! Flips: what would be done, how far one is, and what it did.

use std::time::Duration;

use super::{Page, Style, Tone, printable};
use crate::control::protocol::{
    Drain, FlipDone, FlipPlan, FlipStatus, PlannedStep, PreconditionStatus, StepStatus,
};

/// What a flip did.
pub fn flip(done: &FlipDone, style: Style) -> String {
    let mut page = Page { text: String::new(), style };
    let FlipDone { cluster, from, to, generation, drain, paused_ms, took_ms, warnings } = done;
    let text = if from == to {
        format!("cluster {cluster}: {to} is active (generation {generation})")
    } else if let (Some(paused), Some(took)) = (paused_ms, took_ms) {
        format!(
            "cluster {cluster}: {from} -> {to} (generation {generation}) in {}; writes waited for {}",
            seconds(*took),
            seconds(*paused)
        )
    } else {
        let old_flows = match drain {
            Drain::Finish => "live on",
            Drain::Idle => "are ended as they become idle",
            Drain::Cut => "were ended",
        };
        format!(
            "cluster {cluster}: {from} -> {to} (generation {generation}); new connections go to \
             {to}, connections on {from} {old_flows}"
        )
    };
    page.line(Tone::Strong, &text);
    page.warnings(warnings);
    page.text
}

/// What a flip would find, and do.
pub fn plan(plan: &FlipPlan, style: Style) -> String {
    let mut page = Page { text: String::new(), style };
    let FlipPlan { cluster, from, to, .. } = plan;
    let verdict = if plan.possible { "possible" } else { "not possible" };
    let tone = if plan.possible { Tone::Good } else { Tone::Bad };
    page.paint(Tone::Strong, &format!("cluster {cluster}: {from} -> {to}  "));
    page.line(tone, verdict);
    page.line(Tone::Faint, "preconditions");
    let width = plan.preconditions.iter().map(|it| it.name.len()).max().unwrap_or(0);
    for precondition in &plan.preconditions {
        page.precondition(precondition, width);
    }
    page.line(Tone::Faint, "steps");
    for (index, step) in plan.steps.iter().enumerate() {
        page.planned(index + 1, step);
    }
    let text = format!(
        "undone if it takes longer than {} in all, or if writes have to wait for longer than {}",
        seconds(plan.deadline_ms),
        seconds(plan.max_pause_ms)
    );
    page.line(Tone::Neutral, &text);
    page.warnings(&plan.warnings);
    page.line(Tone::Neutral, "nothing was changed");
    page.text
}

/// How far a flip is: a line for each step, and what it waits for.
pub fn progress(flip: &FlipStatus, style: Style) -> String {
    let mut page = Page { text: String::new(), style };
    let FlipStatus { cluster, from, to, steps, waiting_for, ms, deadline_ms, .. } = flip;
    page.paint(Tone::Strong, &format!("cluster {cluster}: {from} -> {to}"));
    let mut head = format!("  {}", seconds(*ms));
    if let Some(left) = deadline_ms {
        head += &format!(", {} left", seconds(*left));
    }
    if flip.can_be_called_off {
        head += "; Ctrl-C undoes it";
    }
    page.line(Tone::Faint, &head);
    for step in steps {
        page.step(step);
    }
    if !waiting_for.is_empty() {
        page.line(Tone::Neutral, &format!("          {}", printable(waiting_for)));
    }
    page.text
}

impl Page {
    /// In the status of a cluster: how far its flip is.
    pub(super) fn flip_under_way(&mut self, flip: Option<&FlipStatus>) {
        let Some(flip) = flip else { return };
        let step = flip.steps.last();
        let text = format!(
            "  flip to {}: {} for {}",
            flip.to,
            step.map_or("", |step| step.text.as_str()),
            seconds(step.map_or(flip.ms, |step| step.ms))
        );
        self.line(if flip.stuck { Tone::Bad } else { Tone::Odd }, &text);
        if !flip.waiting_for.is_empty() {
            self.line(Tone::Neutral, &format!("    {}", printable(&flip.waiting_for)));
        }
    }

    fn precondition(&mut self, precondition: &PreconditionStatus, width: usize) {
        let PreconditionStatus { name, rule, result, text, can_be_waived } = precondition;
        let tone = match result.as_str() {
            "holds" => Tone::Good,
            "waived" => Tone::Odd,
            _ => Tone::Bad,
        };
        // Beside a word for what would be wrong.
        let said = if result == "holds" { "ok" } else { result };
        self.paint(tone, &format!("  {said:<7}"));
        self.line(Tone::Neutral, &format!("  {name:<width$}  {rule}"));
        if !text.is_empty() {
            self.line(tone, &format!("  {:<7}  {:<width$}  {}", "", "", printable(text)));
        }
        if result == "fails" && *can_be_waived {
            let text = format!("--force {name} flips all the same");
            self.line(Tone::Faint, &format!("  {:<7}  {:<width$}  {text}", "", ""));
        }
    }

    fn planned(&mut self, number: usize, step: &PlannedStep) {
        self.line(Tone::Neutral, &format!("  {number:>2}  {}", step.text));
        for statement in &step.statements {
            let text = format!("      {}: {}", statement.server, printable(&statement.sql));
            self.line(Tone::Faint, &text);
        }
    }

    fn step(&mut self, step: &StepStatus) {
        let tone = if step.done { Tone::Good } else { Tone::Strong };
        self.paint(tone, &format!("  {:>7}", seconds(step.ms)));
        self.line(Tone::Neutral, &format!("  {}", printable(&step.text)));
    }
}

/// As people say it: `0.042s`, `1.3s`, `95s`.
fn seconds(ms: u64) -> String {
    let time = Duration::from_millis(ms).as_secs_f64();
    match ms {
        0..1_000 => format!("{time:.3}s"),
        1_000..60_000 => format!("{time:.1}s"),
        60_000.. => format!("{time:.0}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::PlannedStatement;

    #[test]
    fn a_plan_says_what_stops_it_and_what_would_be_run_where() {
        let precondition = |name: &str, result: &str, text: &str| PreconditionStatus {
            name: name.into(),
            rule: "the rule".into(),
            result: result.into(),
            text: text.into(),
            can_be_waived: name != "missing_grant",
        };
        let plan_ = FlipPlan {
            cluster: "main".into(),
            from: "pair1".into(),
            to: "pair2".into(),
            drain: Drain::Finish,
            possible: false,
            deadline_ms: 60_000,
            max_pause_ms: 5_000,
            preconditions: vec![
                precondition("missing_grant", "fails", "GRANT PROCESS ON *.* TO `p`@`%`;"),
                precondition("target_lagging", "fails", "it is 12 s behind"),
                precondition("target_writable", "holds", ""),
            ],
            steps: vec![PlannedStep {
                name: "fence".into(),
                text: "making the old primary read-only".into(),
                statements: vec![PlannedStatement {
                    server: "10.0.1.11:3306".into(),
                    sql: "SET GLOBAL read_only = 1".into(),
                }],
            }],
            warnings: Vec::new(),
        };
        let text = plan(&plan_, Style::Plain);
        let expected = "\
cluster main: pair1 -> pair2  not possible
preconditions
  fails    missing_grant    the rule
                            GRANT PROCESS ON *.* TO `p`@`%`;
  fails    target_lagging   the rule
                            it is 12 s behind
                            --force target_lagging flips all the same
  ok       target_writable  the rule
steps
   1  making the old primary read-only
      10.0.1.11:3306: SET GLOBAL read_only = 1
undone if it takes longer than 60s in all, or if writes have to wait for longer than 5.0s
nothing was changed
";
        assert_eq!(text, expected, "{text}");
    }

    #[test]
    fn progress_says_each_step_and_what_it_waits_for() {
        let step =
            |text: &str, ms, done| StepStatus { name: "step".into(), text: text.into(), ms, done };
        let flip = FlipStatus {
            cluster: "main".into(),
            from: "pair1".into(),
            to: "pair2".into(),
            steps: vec![step("asking both primaries", 12, true), step("waiting", 3_100, false)],
            waiting_for: "1 flow in a transaction: 10.0.0.7:41822 for 3.1 s".into(),
            ms: 3_112,
            deadline_ms: Some(1_900),
            can_be_called_off: true,
            stuck: false,
        };
        let expected = "\
cluster main: pair1 -> pair2  3.1s, 1.9s left; Ctrl-C undoes it
   0.012s  asking both primaries
     3.1s  waiting
          1 flow in a transaction: 10.0.0.7:41822 for 3.1 s
";
        assert_eq!(progress(&flip, Style::Plain), expected);
    }

    #[test]
    fn a_flip_says_what_became_of_old_and_new_connections() {
        let mut done = FlipDone {
            cluster: "main".into(),
            from: "pair1".into(),
            to: "pair2".into(),
            generation: 8,
            drain: Drain::Cut,
            paused_ms: None,
            took_ms: None,
            warnings: vec![],
        };
        let expected = "cluster main: pair1 -> pair2 (generation 8); new connections go to pair2, \
                        connections on pair1 were ended\n";
        assert_eq!(flip(&done, Style::Plain), expected);

        done.drain = Drain::Finish;
        assert!(flip(&done, Style::Plain).ends_with("connections on pair1 live on\n"));

        done.from = "pair2".into();
        done.warnings = vec!["the pair is active already; nothing was changed".into()];
        let expected = "\
cluster main: pair2 is active (generation 8)
warning: the pair is active already; nothing was changed
";
        assert_eq!(flip(&done, Style::Plain), expected);
    }

    #[test]
    fn a_safe_flip_says_how_long_writes_waited() {
        let done = FlipDone {
            cluster: "main".into(),
            from: "pair1".into(),
            to: "pair2".into(),
            generation: 8,
            drain: Drain::Finish,
            paused_ms: Some(84),
            took_ms: Some(1_234),
            warnings: vec![],
        };
        let expected =
            "cluster main: pair1 -> pair2 (generation 8) in 1.2s; writes waited for 0.084s\n";
        assert_eq!(flip(&done, Style::Plain), expected);
    }
}
