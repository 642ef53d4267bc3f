//! A module of whatever tensors there are.

use super::refused::refused;
use burn::module::{Devices, Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use burn_dist::Result;

/// Tensors at given paths, as a module: it is saved as the model whose paths they are.
#[derive(Debug, Clone, Default)]
pub(super) struct LooseModel {
    leaves: Vec<(String, Leaf)>,
}

/// Defines the leaf and hands each of the module's methods on to what is in it.
macro_rules! leaf {
    ($($float:ident $int:ident $bool:ident $dims:literal),*) => {
        /// A tensor of some kind and number of dimensions.
        #[derive(Debug, Clone)]
        enum Leaf {
            $($float(Param<Tensor<$dims>>), $int(Param<Tensor<$dims, Int>>), $bool(Param<Tensor<$dims, Bool>>),)*
        }

        impl Leaf {
            /// A tensor that takes gradients if it `trains`; none of a number of dimensions that is not here.
            fn new(data: TensorData, trains: bool, device: &Device) -> Option<Self> {
                let dtype = data.dtype();
                match (data.shape().len(), dtype.is_float(), dtype.is_int()) {
                    $(
                        ($dims, true, _) => {
                            let tensor = Tensor::from_data(data, (device, dtype));
                            let param = Param::from_tensor(tensor);
                            Some(Self::$float(param.set_require_grad(trains)))
                        }
                        ($dims, _, true) => {
                            let tensor = Tensor::from_data(data, (device, dtype));
                            Some(Self::$int(Param::initialized(ParamId::new(), tensor)))
                        }
                        ($dims, _, _) => {
                            let tensor = Tensor::from_data(data, device);
                            Some(Self::$bool(Param::initialized(ParamId::new(), tensor)))
                        }
                    )*
                    _ => None,
                }
            }

            fn each(self, f: &mut impl OfLeaf) -> Self {
                match self {
                    $(
                        Self::$float(param) => Self::$float(f.of(param)),
                        Self::$int(param) => Self::$int(f.of(param)),
                        Self::$bool(param) => Self::$bool(f.of(param)),
                    )*
                }
            }

            fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
                match self {
                    $(
                        Self::$float(param) => param.visit(visitor),
                        Self::$int(param) => param.visit(visitor),
                        Self::$bool(param) => param.visit(visitor),
                    )*
                }
            }

            fn collect_devices(&self, devices: Devices) -> Devices {
                match self {
                    $(
                        Self::$float(param) => param.collect_devices(devices),
                        Self::$int(param) => param.collect_devices(devices),
                        Self::$bool(param) => param.collect_devices(devices),
                    )*
                }
            }
        }
    };
}

leaf!(Float1 Int1 Bool1 1, Float2 Int2 Bool2 2, Float3 Int3 Bool3 3, Float4 Int4 Bool4 4, Float5 Int5 Bool5 5, Float6 Int6 Bool6 6);

/// A method of a module that returns it.
trait OfLeaf {
    fn of<M: Module>(&mut self, leaf: M) -> M;
}

/// The methods that give no mapper.
enum Method<'a> {
    Fork(&'a Device),
    ToDevice(&'a Device),
    Train,
    Valid,
    Materialize,
}

impl OfLeaf for Method<'_> {
    fn of<M: Module>(&mut self, leaf: M) -> M {
        match self {
            Self::Fork(device) => leaf.fork(device),
            Self::ToDevice(device) => leaf.to_device(device),
            Self::Train => leaf.train(),
            Self::Valid => leaf.valid(),
            Self::Materialize => leaf.materialize(),
        }
    }
}

struct Mapping<'a, T>(&'a mut T);

impl<T: ModuleMapper> OfLeaf for Mapping<'_, T> {
    fn of<M: Module>(&mut self, leaf: M) -> M {
        leaf.map(self.0)
    }
}

impl LooseModel {
    /// Adds a tensor.
    ///
    /// # Errors
    /// [`Error::Model`](burn_dist::Error::Model) for one without dimensions, or with more than six.
    pub(super) fn add(
        &mut self,
        path: &str,
        data: TensorData,
        trains: bool,
        device: &Device,
    ) -> Result<()> {
        let dims = data.shape().len();
        let leaf = Leaf::new(data, trains, device).ok_or_else(|| {
            let problem = format!("has {dims} dimensions");
            refused(
                path,
                problem,
                "a save has tensors of 1 to 6 dimensions: leave it out",
            )
        })?;
        self.leaves.push((path.to_string(), leaf));
        Ok(())
    }

    fn each(self, mut f: impl OfLeaf) -> Self {
        let leaves = self.leaves.into_iter();
        let leaves = leaves.map(|(path, leaf)| (path, leaf.each(&mut f)));
        Self {
            leaves: leaves.collect(),
        }
    }
}

impl Module for LooseModel {
    fn collect_devices(&self, devices: Devices) -> Devices {
        let leaves = self.leaves.iter();
        leaves.fold(devices, |devices, (_, leaf)| leaf.collect_devices(devices))
    }

    fn fork(self, device: &Device) -> Self {
        self.each(Method::Fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.each(Method::ToDevice(device))
    }

    fn train(self) -> Self {
        self.each(Method::Train)
    }

    fn valid(&self) -> Self {
        self.clone().each(Method::Valid)
    }

    fn materialize(self) -> Self {
        self.each(Method::Materialize)
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        for (path, leaf) in &self.leaves {
            path.split('.')
                .for_each(|name| visitor.enter_module(name, "Loose"));
            leaf.visit(visitor);
            path.rsplit('.')
                .for_each(|name| visitor.exit_module(name, "Loose"));
        }
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let leaves = self.leaves.into_iter().map(|(path, leaf)| {
            path.split('.')
                .for_each(|name| mapper.enter_module(name, "Loose"));
            let leaf = leaf.each(&mut Mapping(mapper));
            path.rsplit('.')
                .for_each(|name| mapper.exit_module(name, "Loose"));
            (path, leaf)
        });
        Self {
            leaves: leaves.collect(),
        }
    }
}
