//! Layers as they are declared: by name and shape.

use super::{Along, Dim, Inner, Layers, Provider};
use crate::spec::{LayerName, Norm, NormWeight, Rotary};
use std::convert::Infallible;

/// A matrix `[outputs, inputs]` and its bias.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// Name of the matrix.
    pub name: LayerName,
    /// Name of the bias `[outputs]`, where it has one.
    pub bias: Option<String>,
    /// Rows.
    pub outputs: Dim,
    /// Columns.
    pub inputs: Dim,
}

impl Linear {
    /// Its bias, where it has one, is named as it is.
    pub fn new(name: LayerName, outputs: Dim, inputs: Dim, bias: bool) -> Self {
        Self { name, bias: bias.then(|| format!("{name}.bias")), outputs, inputs }
    }
}

/// A norm and its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct NormLayer {
    /// Name of its weight; its bias adds `.bias`.
    pub name: LayerName,
    /// Kind and epsilon.
    pub norm: Norm,
    /// Shape of its weight: spans of the activations take rows of it in turn.
    pub shape: Vec<Dim>,
    /// Numbers that are normed together.
    pub span: usize,
}

impl NormLayer {
    /// Over all of a dimension.
    pub fn over(name: LayerName, norm: &Norm, dim: Dim) -> Self {
        Self { name, norm: norm.clone(), span: dim.size(), shape: vec![dim] }
    }
}

/// Parameters that no activations are multiplied by as a matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Vector {
    /// Name.
    pub name: LayerName,
    /// Shape.
    pub shape: Vec<Dim>,
}

/// Layers that are their own declarations.
pub struct Declared;

impl Layers for Declared {
    type Linear = Linear;
    type Norm = NormLayer;
    type Vector = Vector;
    type Table = Vector;
    type Rotary = (Rotary, usize);
}

/// Hands declarations back as layers.
pub struct Declare;

impl Provider for Declare {
    type Layers = Declared;
    type Error = Infallible;

    fn linear(&mut self, linear: Linear) -> Result<Linear, Infallible> {
        Ok(linear)
    }

    fn norm(&mut self, norm: NormLayer) -> Result<NormLayer, Infallible> {
        Ok(norm)
    }

    fn vector(&mut self, vector: Vector) -> Result<Vector, Infallible> {
        Ok(vector)
    }

    fn table(&mut self, table: Vector) -> Result<Vector, Infallible> {
        Ok(table)
    }

    fn tied(&mut self, linear: Linear, _: &Vector) -> Result<Linear, Infallible> {
        Ok(linear)
    }

    fn rotary(&mut self, rotary: &Rotary, head_dim: usize) -> (Rotary, usize) {
        (rotary.clone(), head_dim)
    }
}

/// Records the parameters that are declared, by name and shape, and counts products with
/// them.
#[derive(Default)]
pub struct Recorder {
    /// In the order of their declaration.
    pub parameters: Vec<Recorded>,
    /// Multiply-adds of all linear layers for one token.
    pub multiply_adds: u64,
}

/// A declared parameter.
pub struct Recorded {
    /// Name.
    pub name: String,
    /// Shape.
    pub shape: Vec<Dim>,
    /// True for the matrix of a linear layer.
    pub is_linear: bool,
    /// The norm that it is the weight or the bias of.
    pub norm: Option<Norm>,
}

impl Recorded {
    /// Units inside the block that its dimensions run over.
    pub fn inner(&self) -> impl Iterator<Item = Inner> {
        let units = self.shape.iter().flat_map(|dim| &dim.0);
        units.filter_map(|(along, _)| match along {
            Along::Inner(inner) => Some(*inner),
            Along::Vocabulary | Along::Positions | Along::EmbeddingWidth | Along::Hidden => None,
        })
    }
}

impl Recorder {
    fn record(&mut self, name: String, shape: Vec<Dim>) {
        self.parameters.push(Recorded { name, shape, is_linear: false, norm: None });
    }

    /// Counts a product and records its bias.
    fn product(&mut self, linear: &Linear) {
        self.multiply_adds += linear.outputs.size() as u64 * linear.inputs.size() as u64;
        if let Some(bias) = &linear.bias {
            self.record(bias.clone(), vec![linear.outputs.clone()]);
        }
    }
}

impl Provider for Recorder {
    type Layers = Declared;
    type Error = Infallible;

    fn linear(&mut self, linear: Linear) -> Result<Linear, Infallible> {
        self.product(&linear);
        let shape = vec![linear.outputs.clone(), linear.inputs.clone()];
        self.parameters.push(Recorded { name: linear.name.to_string(), shape, is_linear: true, norm: None });
        Ok(linear)
    }

    fn norm(&mut self, norm: NormLayer) -> Result<NormLayer, Infallible> {
        let mut record = |name| {
            self.parameters.push(Recorded { name, shape: norm.shape.clone(), is_linear: false, norm: Some(norm.norm.clone()) });
        };
        if norm.norm.weight != NormWeight::None {
            record(norm.name.to_string());
        }
        if norm.norm.bias {
            record(format!("{}.bias", norm.name));
        }
        Ok(norm)
    }

    fn vector(&mut self, vector: Vector) -> Result<Vector, Infallible> {
        self.record(vector.name.to_string(), vector.shape.clone());
        Ok(vector)
    }

    fn table(&mut self, table: Vector) -> Result<Vector, Infallible> {
        self.vector(table)
    }

    fn tied(&mut self, linear: Linear, _: &Vector) -> Result<Linear, Infallible> {
        self.product(&linear);
        Ok(linear)
    }

    fn rotary(&mut self, rotary: &Rotary, head_dim: usize) -> (Rotary, usize) {
        (rotary.clone(), head_dim)
    }
}
