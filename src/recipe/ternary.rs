//! `[stage.ternary]`: linear layers in −1, 0 and 1, embeddings and head in more bits.

use super::error::{Checked, RecipeError};
use super::mixed_precision::RawMixedPrecision;
use super::raw::{RawOthers, RawScheme};
use super::resolve::{DAMP_RANGE, check_group_size, schemes};
use super::{Distil, Method, Quantize, Trainable};
use crate::model::ModelSpec;
use crate::quant::Code;
use crate::quant::ternary::Share;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How ternary weights are found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TernaryOptions {
    /// The weights that share a scale.
    pub scale: Share,
    /// What finds scales and codes.
    pub solver: TernarySolver,
}

/// What finds scales and codes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TernarySolver {
    /// The mean magnitude, and what is nearest.
    Absmean,
    /// GPTQ's codes and the best scales in turn.
    Gptq {
        /// Added to the Hessian's diagonal, relative to its mean.
        damp_percent: f64,
        /// How often.
        rounds: usize,
    },
}

impl TernarySolver {
    const DAMP_PERCENT: f64 = 0.01;
    const ROUNDS: usize = 4;

    /// What loses least.
    pub const BEST: Self = Self::Gptq { damp_percent: Self::DAMP_PERCENT, rounds: Self::ROUNDS };
}

/// Quantisation-aware training (QAT): forwards see rounded weights, and gradients go straight
/// through.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Qat {
    /// What solves the layers first, so that training begins with weights that are rounded to
    /// what it finds; the model's own where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<TernarySolver>,
    /// What is learnt, and on what.
    pub distil: Distil,
    /// Share of the steps over which rounding is blended in.
    pub blend: f64,
    /// Whether the inputs of what is rounded are rounded to int8, a scale a token.
    pub round_inputs: bool,
    /// Whether norms are inserted before `attn.o` and `ffn.down`, as BitNet has them.
    pub sub_norms: bool,
}

/// As it is written. What is GPTQ's alone has no default, so that it is refused elsewhere.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTernary {
    scale: RawShare,
    packing: PackingName,
    solver: Option<SolverName>,
    damp_percent: Option<f64>,
    rounds: Option<usize>,
    distil: Option<Distil>,
    start: Option<SolverName>,
    blend: Option<f64>,
    round_inputs: Option<bool>,
    sub_norms: Option<bool>,
    mixed_precision: Option<RawMixedPrecision>,
    embeddings: RawScheme,
    head: Option<RawScheme>,
    skip: Vec<String>,
}

impl Default for RawTernary {
    fn default() -> Self {
        Self {
            scale: RawShare::Named(ShareName::Row),
            packing: PackingName::TwoBits,
            solver: None,
            damp_percent: None,
            rounds: None,
            distil: None,
            start: None,
            blend: None,
            round_inputs: None,
            sub_norms: None,
            mixed_precision: None,
            embeddings: RawScheme::default(),
            head: None,
            skip: Vec::new(),
        }
    }
}

/// "tensor", "row", or columns of a group.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged, expecting = "expected \"tensor\", \"row\", or a number of columns such as 128")]
enum RawShare {
    Named(ShareName),
    Columns(usize),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ShareName {
    Tensor,
    Row,
}

/// How codes share bytes.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PackingName {
    /// Decodes fastest.
    TwoBits,
    /// Is smallest.
    FiveAByte,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SolverName {
    Absmean,
    Gptq,
}

impl RawTernary {
    /// For a model.
    pub fn checked(&self, spec: &ModelSpec, folder: &Path) -> Checked<Quantize> {
        let fail = RecipeError::at("ternary");
        let scale = match self.scale {
            RawShare::Named(ShareName::Tensor) => Share::Tensor,
            RawShare::Named(ShareName::Row) => Share::Row,
            RawShare::Columns(0) => return Err(fail(RecipeError::NoGroup)),
            RawShare::Columns(columns) => {
                check_group_size("scale", columns, "\"row\" or \"tensor\"").map_err(&fail)?;
                Share::Group(columns)
            }
        };
        let code = match self.packing {
            PackingName::TwoBits => Code::Ternary,
            PackingName::FiveAByte => Code::Base3,
        };
        let others = RawOthers::new(self.embeddings, self.head, &self.skip);
        let schemes = schemes("ternary", scale.scheme(code), &others, spec)?;
        if !schemes.values().any(|scheme| scheme.code.is_ternary()) {
            let reason = "skip leaves no layer to be ternary; leave some of its names out";
            return Err(fail(RecipeError::conflict(&["skip"], reason)));
        }
        let solver = self.solver().map_err(&fail)?;
        let mixed_precision = self.mixed_precision.map(|mixed| mixed.checked(&schemes, spec)).transpose().map_err(&fail)?;
        let plan =
            Quantize { method: Method::Ternary(TernaryOptions { scale, solver }), rescale: None, schemes, mixed_precision, qat: None };
        let qat = self.qat(&plan, spec, folder).map_err(&fail)?;
        Ok(Quantize { qat: qat.map(Box::new), ..plan })
    }

    /// How what a plan rounds is trained.
    fn qat(&self, plan: &Quantize, spec: &ModelSpec, folder: &Path) -> Checked<Option<Qat>> {
        let Some(distil) = &self.distil else {
            let given: [(&'static str, bool); 4] = [
                ("start", self.start.is_some()),
                ("blend", self.blend.is_some()),
                ("round_inputs", self.round_inputs.is_some()),
                ("sub_norms", self.sub_norms.is_some()),
            ];
            return match given.into_iter().find(|(_, given)| *given) {
                Some((key, _)) => Err(RecipeError::ForTraining { key }),
                None => Ok(None),
            };
        };
        let start = match self.start {
            None | Some(SolverName::Absmean) => None,
            Some(SolverName::Gptq) => Some(self.gptq()?),
        };
        // What was solved is rounded, and blending it in would leave it first.
        let blend = self.blend.unwrap_or(if start.is_some() { 0.0 } else { 0.2 });
        let sub_norms = self.sub_norms.unwrap_or(false);
        let student = if sub_norms { plan.with_sub_norms(spec)? } else { spec.clone() };
        let distil = distil.checked(&student, folder)?;
        match () {
            () if !(0.0..=1.0).contains(&blend) => {
                Err(RecipeError::NoShare { key: "blend", value: Some(blend), of: "the steps", range: "from 0 to 1" })
            }
            () if distil.progressive > 0.0 => Err(RecipeError::conflict(
                &["distil.progressive"],
                "distil: progressive trains blocks alone, which are rounded together; leave it out",
            )),
            () if distil.on_policy.is_some() => Err(RecipeError::conflict(
                &["distil.on_policy"],
                "distil: on_policy writes with weights that are not rounded; leave it out",
            )),
            () if sub_norms && !matches!(distil.training.trainable, Trainable::Named(_)) => Err(RecipeError::conflict(
                &["sub_norms", "trainable"],
                "sub_norms inserts norms, which adapters do not train: leave sub_norms or trainable out",
            )),
            () => Ok(Some(Qat { start, distil, blend, round_inputs: self.round_inputs.unwrap_or(true), sub_norms })),
        }
    }

    /// What finds what is stored: what is trained is rounded as it was in training.
    fn solver(&self) -> Checked<TernarySolver> {
        let trained = self.distil.is_some();
        let uses_gptq = [self.solver, self.start].contains(&Some(SolverName::Gptq));
        match self.solver.unwrap_or(if trained { SolverName::Absmean } else { SolverName::Gptq }) {
            SolverName::Gptq if trained => Err(RecipeError::conflict(
                &["solver", "distil"],
                "solver = \"gptq\" finds other codes than those that were trained; leave solver or distil out, or set start = \"gptq\" to begin with them",
            )),
            SolverName::Absmean if !uses_gptq && (self.damp_percent.is_some() || self.rounds.is_some()) => {
                let only = if trained { "start = \"gptq\"" } else { "solver = \"gptq\"" };
                Err(RecipeError::Unused { key: "damp_percent and rounds", only })
            }
            SolverName::Absmean => Ok(TernarySolver::Absmean),
            SolverName::Gptq => self.gptq(),
        }
    }

    fn gptq(&self) -> Checked<TernarySolver> {
        let damp_percent = self.damp_percent.unwrap_or(TernarySolver::DAMP_PERCENT);
        let rounds = self.rounds.unwrap_or(TernarySolver::ROUNDS);
        match () {
            () if !(damp_percent > 0.0 && damp_percent <= 1.0) => Err(RecipeError::range("damp_percent", damp_percent, DAMP_RANGE)),
            () if !(1..=100).contains(&rounds) => Err(RecipeError::range("rounds", rounds, "from 1 to 100")),
            () => Ok(TernarySolver::Gptq { damp_percent, rounds }),
        }
    }
}
