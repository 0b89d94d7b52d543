//! How many units of each axis stay, so that a model costs what it may.

use super::saliency::Scores;
use crate::error::{Error, Result};
use crate::forward::Inner;
use crate::model::{Axis, Kept, ModelSpec, Selection};
use crate::recipe::{Cut, PruneWidth};
use std::collections::BTreeMap;

/// The largest model within the target that cutting the lowest scores gives: by the same
/// share of every axis, or, where widths need not be uniform, by one threshold.
///
/// `cost` is asked where the spec alone does not tell.
pub fn search(plan: &PruneWidth, scores: &Scores, spec: &ModelSpec, cost: &dyn Fn(&ModelSpec) -> f64) -> Result<Selection> {
    let refuse = |reason: &dyn std::fmt::Display| Error::Usage(format!("prune_width: {reason}"));
    let cut = |counts: &Counts| {
        let mut selection = Selection::whole(spec);
        for (&axis, &count) in counts {
            selection.keep(axis, &best(axis, count, scores, plan, spec), spec);
        }
        let smaller = selection.apply(spec).map_err(|error| refuse(&error))?;
        Ok::<_, Error>((selection, smaller))
    };
    let Some(target) = plan.target(spec) else {
        return Ok(cut(&scores.keys().map(|&axis| (axis, plan.least(axis, spec))).collect())?.0);
    };
    let costs = |spec: &ModelSpec| target.cost(spec).unwrap_or_else(|| cost(spec));
    if costs(spec) <= target.limit() {
        tracing::warn!("prune_width: the model is within {target} as it is: nothing is taken out");
        return Ok(Selection::whole(spec));
    }
    let steps = Steps::new(plan, scores, spec);
    let fits = |counts: &Counts| Ok::<_, Error>(costs(&cut(counts)?.1) <= target.limit());
    // Costs fall with the steps: the first that is within the target is the largest model.
    let (mut above, mut within) = (0, steps.count());
    if !fits(&steps.counts(within))? {
        let least = costs(&cut(&steps.counts(within))?.1);
        return Err(refuse(&format_args!("{target} cannot be reached: the least that can be left costs {least}")));
    }
    while above + 1 < within {
        let middle = above.midpoint(within);
        *(if fits(&steps.counts(middle))? { &mut within } else { &mut above }) = middle;
    }
    let mut found = steps.counts(within);
    // What rounding left over, kind by kind.
    for kind in plan.cuts().into_iter().filter(|_| plan.uniform) {
        loop {
            let mut wider = found.clone();
            for (axis, count) in wider.iter_mut().filter(|(axis, _)| Cut::of(**axis) == Some(kind)) {
                *count = (*count + plan.step(*axis, spec)).min(axis.size(spec));
            }
            if wider == found || !fits(&wider)? {
                break;
            }
            found = wider;
        }
    }
    Ok(cut(&found)?.0)
}

/// Units that stay of each axis.
type Counts = BTreeMap<Axis, usize>;

/// The units of an axis that score highest, so many of them, ascending.
fn best(axis: Axis, count: usize, scores: &Scores, plan: &PruneWidth, spec: &ModelSpec) -> Vec<usize> {
    let scores = &scores[&axis];
    // Query heads go in equal numbers from each key-value head.
    let groups = if Cut::of(axis) == Some(Cut::QueryHeads) { plan.step(axis, spec) } else { 1 };
    let of = scores.len() / groups;
    let in_group = |group: usize| {
        let mut units: Vec<usize> = (group * of..(group + 1) * of).collect();
        units.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        units.truncate(count / groups);
        units.sort_unstable();
        units
    };
    (0..groups).flat_map(in_group).collect()
}

/// Ever smaller models.
struct Steps<'a> {
    plan: &'a PruneWidth,
    scores: &'a Scores,
    spec: &'a ModelSpec,
    /// Of all scores, ascending; empty where widths are uniform.
    thresholds: Vec<f64>,
}

/// Steps from all to nothing, where widths are uniform.
const SHARES: usize = 1 << 12;

impl<'a> Steps<'a> {
    fn new(plan: &'a PruneWidth, scores: &'a Scores, spec: &'a ModelSpec) -> Self {
        let mut thresholds: Vec<f64> = if plan.uniform { Vec::new() } else { scores.values().flatten().copied().collect() };
        thresholds.sort_unstable_by(f64::total_cmp);
        Self { plan, scores, spec, thresholds }
    }

    fn count(&self) -> usize {
        if self.plan.uniform { SHARES } else { self.thresholds.len() }
    }

    fn counts(&self, step: usize) -> Counts {
        self.scores.keys().map(|&axis| (axis, self.width(axis, step))).collect()
    }

    /// Units of an axis at a step.
    fn width(&self, axis: Axis, step: usize) -> usize {
        let scores = &self.scores[&axis];
        let wanted = if self.plan.uniform {
            scores.len() as f64 * (1.0 - step as f64 / SHARES as f64)
        } else {
            let threshold = self.thresholds.get(step).copied().unwrap_or(f64::INFINITY);
            scores.iter().filter(|score| **score >= threshold).count() as f64
        };
        let multiple = self.plan.step(axis, self.spec);
        let rounded = (wanted / multiple as f64).round() as usize * multiple;
        // A width that is no multiple may stay as it is.
        let whole = if wanted > (scores.len() - scores.len() % multiple) as f64 { scores.len() } else { rounded };
        whole.clamp(self.plan.least(axis, self.spec), scores.len())
    }
}

/// What was chosen, for people: `feed-forward: 576 of 768 in every block`.
pub fn describe(selection: &Selection, spec: &ModelSpec) -> Vec<String> {
    let mut alike: BTreeMap<(Inner, usize, usize), Vec<usize>> = BTreeMap::new();
    let mut said = Vec::new();
    for axis in spec.cuttable().into_iter().filter(|axis| selection.cuts(*axis)) {
        let Kept { of, indices } = selection.of(axis, spec);
        match axis {
            // Query heads that go with their key-value heads go without saying.
            Axis::Block(block, Inner::QueryHeads) if selection.cuts(Axis::Block(block, Inner::KvHeads)) => (),
            Axis::Block(block, inner) => alike.entry((inner, indices.len(), of)).or_default().push(block),
            _ => said.push(format!("{axis}: {} of {of}", indices.len())),
        }
    }
    said.extend(alike.into_iter().map(|((inner, left, of), blocks)| {
        let blocks = if blocks == selection.layers { "every block".into() } else { format!("blocks {blocks:?}") };
        format!("{inner}: {left} of {of} in {blocks}")
    }));
    said
}
