//! An SVG of a run: latency over time above, its distribution below. Both latency axes are logarithmic, because the
//! values span a factor of a thousand.

use super::calls::{Call, Sample};
use super::summary::Spread;
use std::fmt::Write as _;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 640.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
/// Top and height of the upper panel.
const OVER_TIME: (f64, f64) = (50.0, 270.0);
/// Top and height of the lower panel.
const DISTRIBUTION: (f64, f64) = (390.0, 190.0);
/// Number of dots: more make a file that browsers cannot handle, and the same picture.
const DOTS_MAX: usize = 4_000;
/// Columns of the upper panel; the slowest call of each is always drawn, however many dots are left out.
const COLUMNS: usize = 240;
/// Bars of the lower panel.
const BARS: usize = 80;
/// Microseconds in a millisecond and in a second.
const MILLI_US: f64 = 1_000.0;
const SECOND_US: f64 = 1_000_000.0;

const CLAIM_COLOUR: &str = "#2563eb";
const REPLAY_COLOUR: &str = "#0d9488";
const RELEASE_COLOUR: &str = "#a16207";
const FAILED_COLOUR: &str = "#dc2626";
const LINE_COLOUR: &str = "#111827";
const GRID_COLOUR: &str = "#e5e7eb";

/// The coordinates of a panel.
struct Scale {
    from: f64,
    to: f64,
    /// Coordinates that `from` and `to` lie at.
    ends: (f64, f64),
    is_log: bool,
}

/// The picture of these samples under `title`.
#[must_use]
pub fn svg(title: &str, samples: &[Sample]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    label(&mut svg, LEFT, 24.0, "start", title);
    legend(&mut svg);
    if samples.is_empty() {
        label(&mut svg, WIDTH / 2.0, HEIGHT / 2.0, "middle", "nothing was measured");
    } else {
        over_time(&mut svg, samples);
        distribution(&mut svg, samples);
    }
    svg.push_str("</svg>\n");
    svg
}

fn legend(svg: &mut String) {
    let entries = [
        ("claim", CLAIM_COLOUR),
        ("replay", REPLAY_COLOUR),
        ("release", RELEASE_COLOUR),
        ("not granted", FAILED_COLOUR),
    ];
    let mut x = WIDTH - RIGHT - 300.0;
    for (name, colour) in entries {
        dot(svg, x, 36.0, colour, 1.0);
        label(svg, x + 8.0, 40.0, "start", name);
        x += 75.0;
    }
}

fn over_time(svg: &mut String, samples: &[Sample]) {
    let (top, height) = OVER_TIME;
    let latest_us = samples.iter().map(|sample| sample.intended_start_us).max().unwrap_or_default();
    let earliest_us = samples.iter().map(|sample| sample.intended_start_us).min().unwrap_or_default();
    let span_us = (latest_us - earliest_us).max(1);
    let time = Scale::linear(span_us as f64, (LEFT, WIDTH - RIGHT));
    let latency = Scale::of_latencies(samples, (top + height, top));
    for (tick_us, text) in latency.ticks() {
        line(svg, (LEFT, latency.at(tick_us)), (WIDTH - RIGHT, latency.at(tick_us)), GRID_COLOUR);
        label(svg, LEFT - 6.0, latency.at(tick_us) + 4.0, "end", &text);
    }
    for step in 0..=10_u32 {
        let at_us = span_us as f64 * f64::from(step) / 10.0;
        let text = format!("{:.1} s", at_us / SECOND_US);
        label(svg, time.at(at_us), top + height + 18.0, "middle", &text);
    }
    label(svg, LEFT, top - 6.0, "start", "latency in ms, by intended start");
    let offset_us = |sample: &Sample| sample.intended_start_us - earliest_us;
    for sample in chosen(samples, |sample| offset_us(sample) as f64 / (span_us + 1) as f64) {
        let (x, y) = (time.at(offset_us(sample) as f64), latency.at(sample.latency_us as f64));
        dot(svg, x, y, colour_of(sample), 0.5);
    }
}

/// Every n-th sample, and the slowest of each column.
fn chosen(samples: &[Sample], share: impl Fn(&Sample) -> f64) -> Vec<&Sample> {
    let stride = samples.len().div_ceil(DOTS_MAX).max(1);
    let mut chosen: Vec<&Sample> = samples.iter().step_by(stride).collect();
    if stride > 1 {
        let mut slowest: Vec<Option<&Sample>> = vec![None; COLUMNS];
        for sample in samples {
            let column = (share(sample) * COLUMNS as f64) as usize;
            if let Some(slot) = slowest.get_mut(column)
                && slot.is_none_or(|known| known.latency_us < sample.latency_us)
            {
                *slot = Some(sample);
            }
        }
        chosen.extend(slowest.into_iter().flatten());
    }
    chosen
}

fn distribution(svg: &mut String, samples: &[Sample]) {
    let (top, height) = DISTRIBUTION;
    let claims: Vec<u64> = samples
        .iter()
        .filter(|sample| sample.call == Call::Claim && sample.ending.is_granted())
        .map(|sample| sample.latency_us)
        .collect();
    let latency = Scale::of_latencies(samples, (LEFT, WIDTH - RIGHT));
    let mut bars = vec![0_usize; BARS];
    for latency_us in &claims {
        let bar = (latency.share(*latency_us as f64) * BARS as f64) as usize;
        if let Some(count) = bars.get_mut(bar.min(BARS - 1)) {
            *count += 1;
        }
    }
    let most = bars.iter().copied().max().unwrap_or_default().max(1);
    let width = (WIDTH - RIGHT - LEFT) / BARS as f64;
    for (number, count) in bars.iter().enumerate().filter(|(_, count)| **count > 0) {
        let (x, tall) = (LEFT + width * number as f64, height * *count as f64 / most as f64);
        // Writing into a String cannot fail.
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall:.1}\" fill=\"{CLAIM_COLOUR}\" fill-opacity=\"0.6\"/>",
            top + height - tall,
            width - 1.0
        );
    }
    line(svg, (LEFT, top + height), (WIDTH - RIGHT, top + height), LINE_COLOUR);
    for (tick_us, text) in latency.ticks() {
        label(svg, latency.at(tick_us), top + height + 18.0, "middle", &text);
    }
    let text = format!("granted claims by latency in ms ({} of them, the tallest bar {most})", claims.len());
    label(svg, LEFT, top - 22.0, "start", &text);
    let spread = Spread::of(claims);
    if spread.count > 0 {
        for (name, at_us) in [("p50", spread.p50_us), ("p99", spread.p99_us), ("p99.9", spread.p999_us)] {
            let x = latency.at(at_us as f64);
            line(svg, (x, top), (x, top + height), LINE_COLOUR);
            label(svg, x, top - 4.0, "middle", name);
        }
    }
}

fn colour_of(sample: &Sample) -> &'static str {
    match sample.call {
        _ if !sample.ending.is_granted() => FAILED_COLOUR,
        Call::Claim => CLAIM_COLOUR,
        Call::Replay => REPLAY_COLOUR,
        // No picture shows the calls of containers.
        Call::Release | Call::Get | Call::Execute => RELEASE_COLOUR,
    }
}

// === impl Scale ===

impl Scale {
    fn linear(to: f64, ends: (f64, f64)) -> Self {
        Self { from: 0.0, to, ends, is_log: false }
    }

    /// From the decade below the shortest to the decade above the longest latency, in microseconds.
    fn of_latencies(samples: &[Sample], ends: (f64, f64)) -> Self {
        let latencies = || samples.iter().map(|sample| sample.latency_us.max(1));
        let (shortest, longest) = (latencies().min().unwrap_or(1), latencies().max().unwrap_or(1));
        let from = 10_f64.powf((shortest as f64).log10().floor());
        // The longest itself may be a power of ten, and the two must differ.
        let to = 10_f64.powf((longest as f64).log10().ceil()).max(from * 10.0);
        Self { from, to, ends, is_log: true }
    }

    /// How far `value` lies between the ends, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let share = if self.is_log {
            (value.max(self.from) / self.from).log10() / (self.to / self.from).log10()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        share.clamp(0.0, 1.0)
    }

    fn at(&self, value: f64) -> f64 {
        let (start, end) = self.ends;
        start + (end - start) * self.share(value)
    }

    /// One, two and five times every power of ten, with labels in milliseconds.
    fn ticks(&self) -> Vec<(f64, String)> {
        let mut ticks = Vec::new();
        let mut decade = self.from;
        while decade <= self.to {
            for tick in [decade, decade * 2.0, decade * 5.0] {
                if tick <= self.to * 1.001 {
                    ticks.push((tick, format!("{}", tick / MILLI_US)));
                }
            }
            decade *= 10.0;
        }
        ticks
    }
}

fn dot(svg: &mut String, x: f64, y: f64, colour: &str, opacity: f64) {
    // Writing into a String cannot fail, here and below.
    let _ = writeln!(
        svg,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1.8\" fill=\"{colour}\" fill-opacity=\"{opacity}\"/>"
    );
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
    );
}

fn label(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ =
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escaped(text));
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::Ending;
    use ports::bus::RequestError;

    fn samples(count: u64) -> Vec<Sample> {
        (0..count)
            .map(|number| Sample {
                call: if number % 3 == 0 { Call::Replay } else { Call::Claim },
                ending: if number % 50 == 7 { Ending::Lost(RequestError::TimedOut) } else { Ending::Created },
                intended_start_us: number * 1_000,
                start_us: number * 1_000,
                latency_us: 900 + number % 977,
            })
            .collect()
    }

    /// Checks that every element is closed in order, every attribute quoted and every number a number.
    fn assert_well_formed(svg: &str) {
        let mut open = Vec::new();
        let mut rest = svg;
        while let Some((text, after)) = rest.split_once('<') {
            assert!(!text.contains('>'), "a stray > in {text:?}");
            let (tag, tail) = after.split_once('>').expect("every < has its >");
            rest = tail;
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "{tag}");
                continue;
            }
            let name = tag.split([' ', '/']).next().unwrap();
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            assert!(!tag.contains("NaN") && !tag.contains("inf"), "{tag}");
            if !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?}");
        let entities =
            svg.matches("&amp;").count() + svg.matches("&lt;").count() + svg.matches("&gt;").count();
        assert_eq!(svg.matches('&').count(), entities + svg.matches("&quot;").count());
    }

    #[test]
    fn svg_is_well_formed_for_any_samples() {
        for count in [0, 1, 2, 500, 20_000] {
            assert_well_formed(&svg("claims <64 callers> & \"more\"", &samples(count)));
        }
        let same = vec![Sample { latency_us: 0, ..samples(1)[0] }; 3];
        assert_well_formed(&svg("all alike", &same));
    }

    #[test]
    fn slowest_sample_is_always_drawn() {
        let mut many = samples(50_000);
        many[12_345].latency_us = 9_000_000;
        let drawn = chosen(&many, |sample| sample.intended_start_us as f64 / 50_000_001.0);
        assert!(drawn.len() <= DOTS_MAX + COLUMNS);
        assert!(drawn.iter().any(|sample| sample.latency_us == 9_000_000));
    }

    #[test]
    fn logarithmic_scale_has_equal_decades() {
        let scale = Scale { from: 100.0, to: 10_000.0, ends: (0.0, 200.0), is_log: true };
        assert_eq!((scale.at(100.0), scale.at(1_000.0), scale.at(10_000.0)), (0.0, 100.0, 200.0));
        assert_eq!(scale.ticks().len(), 7);
    }
}
