//! Progress on standard error: a bar on a terminal, lines elsewhere; and Ctrl-C.

use crate::progress::{Progress, Unit};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::collections::VecDeque;
use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

/// One step of work at a time.
pub struct Bars {
    current: Arc<Mutex<Current>>,
    /// Starts the thread that prints lines when they are due.
    watched: Once,
    interrupted: Arc<AtomicBool>,
}

/// Display of the work that runs now.
#[derive(Default)]
enum Current {
    #[default]
    Nothing,
    Bar(ProgressBar, String),
    /// With the time at which it began.
    Lines(Lines, Instant),
}

impl Default for Bars {
    fn default() -> Self {
        Self { current: Arc::default(), watched: Once::new(), interrupted: Arc::default() }
    }
}

impl Bars {
    /// Ctrl-C, or a request to terminate, becomes a wish to stop; a second one stops at
    /// once.
    #[cfg(feature = "torch")]
    pub fn heeding_interrupts() -> Self {
        let bars = Self::default();
        let interrupted = bars.interrupted.clone();
        // Without a handler it stops at once, which loses little.
        let _ = ctrlc::set_handler(move || {
            if interrupted.swap(true, Ordering::Relaxed) {
                crate::exit::release();
                std::process::exit(crate::Error::Interrupted.exit_code().into());
            }
            say("stopping where nothing is lost; once more stops at once");
        });
        bars
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the lines that are due, also while no step ends for a long time. Where no
    /// thread can be started, lines come when steps end.
    fn watch(&self) {
        let current = Arc::downgrade(&self.current);
        let _ = std::thread::Builder::new().name("progress".into()).spawn(move || {
            loop {
                std::thread::sleep(TICK);
                let Some(current) = current.upgrade() else { return };
                if let Current::Lines(lines, began) = &mut *current.lock().unwrap_or_else(PoisonError::into_inner) {
                    lines.print(began.elapsed());
                }
            }
        });
    }
}

impl Progress for Bars {
    fn begin(&self, what: &str, steps: u64, unit: Unit) {
        self.end();
        if std::io::stderr().is_terminal() {
            let per = unit.steps.max(1);
            let counted = move |state: &ProgressState, out: &mut dyn Write| {
                let _ = write!(out, "{}/{} {}", state.pos() / per, state.len().unwrap_or(0) / per, unit.name);
                let rate = state.per_sec() / per as f64;
                if rate > 0.0 {
                    let _ = write!(out, " {}", speed(rate, unit));
                }
            };
            let style = ProgressStyle::with_template("{msg:<34} {bar:32} {counted} {elapsed} (eta {eta})").expect("a valid template");
            let bar = ProgressBar::new(steps).with_style(style.with_key("counted", counted)).with_message(what.to_owned());
            *self.current() = Current::Bar(bar, what.to_owned());
        } else {
            *self.current() = Current::Lines(Lines::new(what, steps, unit), Instant::now());
            self.watched.call_once(|| self.watch());
        }
    }

    fn advance(&self, steps: u64) {
        match &mut *self.current() {
            Current::Nothing => {}
            Current::Bar(bar, _) => bar.inc(steps),
            Current::Lines(lines, began) => {
                lines.done += steps;
                lines.print(began.elapsed());
            }
        }
    }

    fn tell(&self, how: &str) {
        match &mut *self.current() {
            Current::Nothing => {}
            Current::Bar(bar, what) => bar.set_message(format!("{what}: {how}")),
            Current::Lines(lines, _) => lines.how = format!(", {how}"),
        }
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    fn end(&self) {
        match std::mem::take(&mut *self.current()) {
            Current::Nothing => {}
            Current::Bar(bar, _) => bar.finish_and_clear(),
            Current::Lines(mut lines, began) => {
                if let Some(line) = lines.last(began.elapsed()) {
                    say(&line);
                }
            }
        }
    }
}

/// Between looks at what is due.
const TICK: Duration = Duration::from_millis(500);
/// Work that is done before has no line at all.
const SHORT: Duration = Duration::from_secs(2);
/// Between lines.
const EVERY: Duration = Duration::from_secs(10);
/// The time over which a rate is taken, the latest of the work.
const RATE_OVER: Duration = Duration::from_secs(60);

/// Lines on work, for a file or a pipe: one when it turns out to be long, one every ten
/// seconds, and one at its end. Times are those since it began.
struct Lines {
    what: String,
    steps: u64,
    done: u64,
    unit: Unit,
    /// Last message of the work, such as a loss, after a comma.
    how: String,
    /// When the next line is due.
    due: Duration,
    /// Steps that were done at some times. The first is not the beginning: what an earlier run
    /// has done counts as soon as work begins, and would make the rate too high.
    seen: VecDeque<(Duration, u64)>,
}

impl Lines {
    fn new(what: &str, steps: u64, unit: Unit) -> Self {
        Self { what: what.to_owned(), steps, done: 0, unit, how: String::new(), due: SHORT, seen: VecDeque::new() }
    }

    fn print(&mut self, now: Duration) {
        if let Some(line) = self.line(now) {
            say(&line);
        }
    }

    /// The line that is due, where one is.
    fn line(&mut self, now: Duration) -> Option<String> {
        if self.seen.back().is_none_or(|(at, _)| now.saturating_sub(*at) >= TICK) {
            self.seen.push_back((now, self.done));
            while self.seen.len() > 2 && now.saturating_sub(self.seen[1].0) >= RATE_OVER {
                self.seen.pop_front();
            }
        }
        if now < self.due {
            return None;
        }
        self.due = now + EVERY;
        let left = self.rate(now).map_or(String::new(), |rate| {
            let left = Duration::from_secs_f64((self.steps.saturating_sub(self.done) as f64 / rate).min(1e9));
            format!(", {}, {} left", speed(rate / self.per(), self.unit), time(left))
        });
        // Of what comes from a pipe the whole is not known.
        let Some(percent) = (100 * self.done.min(self.steps)).checked_div(self.steps) else {
            let rate = self.rate(now).map_or(String::new(), |rate| format!(", {}", speed(rate / self.per(), self.unit)));
            return Some(format!("{}: {}{rate}{}", self.what, self.counted(), self.how));
        };
        Some(format!("{}: {}, {percent} %{left}{}", self.what, self.counted(), self.how))
    }

    /// The line at the end of work that had one before.
    fn last(&mut self, now: Duration) -> Option<String> {
        (now >= SHORT).then(|| format!("{}: {} in {}{}", self.what, self.counted(), time(now), self.how))
    }

    fn per(&self) -> f64 {
        self.unit.steps.max(1) as f64
    }

    /// Such as "3.5/12 blocks".
    fn counted(&self) -> String {
        let (done, of) = (self.done as f64 / self.per(), self.steps as f64 / self.per());
        if self.steps == 0 {
            return format!("{done:.1} {}", self.unit.name);
        }
        let done = if self.unit.steps > 1 { format!("{:.1}", done.min(of)) } else { self.done.to_string() };
        format!("{done}/{:.0} {}", of, self.unit.name)
    }

    /// Steps per second of late; `None` where none is done.
    fn rate(&self, now: Duration) -> Option<f64> {
        let (at, done) = *self.seen.front()?;
        let seconds = now.saturating_sub(at).as_secs_f64();
        (seconds > 0.0 && self.done > done).then(|| (self.done - done) as f64 / seconds)
    }
}

/// A line on standard error. Where nobody reads it, the work goes on.
pub fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Such as "12 windows/s"; slow work is better told by the time that one takes.
fn speed(per_second: f64, unit: Unit) -> String {
    if per_second >= 1.0 { format!("{} {}/s", short(per_second), unit.name) } else { format!("{} s each", short(1.0 / per_second)) }
}

/// Three digits are enough.
fn short(number: f64) -> String {
    if number >= 100.0 { format!("{number:.0}") } else { format!("{number:.1}") }
}

/// Such as "45 s", "3 min 20 s", "2 h 5 min".
fn time(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds @ 3600..172_800 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A step each second.
    #[test]
    fn a_line_every_ten_seconds() {
        let mut lines = Lines::new("quantising", 4 * 30, Unit::of("blocks", 4));
        let mut said = Vec::new();
        for second in 0..=30 {
            lines.done = second * 4 / 2;
            said.extend(lines.line(seconds(second)));
        }
        assert_eq!(
            said,
            [
                "quantising: 1.0/30 blocks, 3 %, 2.0 s each, 58 s left",
                "quantising: 6.0/30 blocks, 20 %, 2.0 s each, 48 s left",
                "quantising: 11.0/30 blocks, 36 %, 2.0 s each, 38 s left",
            ]
        );
        lines.how = ", loss 1.25".into();
        assert_eq!(lines.last(seconds(200)).unwrap(), "quantising: 15.0/30 blocks in 3 min 20 s, loss 1.25");
    }

    #[test]
    fn short_work_is_not_told() {
        let mut lines = Lines::new("evaluating", 10, Unit::one("windows"));
        for tenth in 0..20 {
            lines.done = tenth / 2;
            assert_eq!(lines.line(Duration::from_millis(100 * tenth)), None);
        }
        assert_eq!(lines.last(Duration::from_millis(1999)), None);
    }

    /// The rate forgets resumed work and a slow start after a while.
    #[test]
    fn the_rate_is_that_of_late() {
        let mut lines = Lines::new("training", 1_000_000, Unit::one("tokens"));
        lines.done = 900_000;
        assert_eq!(lines.line(Duration::from_millis(600)), None);
        for second in 1..=102 {
            lines.done += if second <= 42 { 10 } else { 500 };
            let line = lines.line(seconds(second));
            match second {
                2 => assert_eq!(line.unwrap(), "training: 900020/1000000 tokens, 90 %, 14.3 tokens/s, 1 h 56 min left"),
                102 => assert_eq!(line.unwrap(), "training: 930420/1000000 tokens, 93 %, 500 tokens/s, 2 min 19 s left"),
                _ => {}
            }
        }
    }

    #[test]
    fn nothing_done_has_no_rate() {
        let mut lines = Lines::new("asking the teacher", 8, Unit::one("sequences"));
        assert_eq!(lines.line(seconds(1)), None);
        assert_eq!(lines.line(seconds(3)).unwrap(), "asking the teacher: 0/8 sequences, 0 %");
    }
}
