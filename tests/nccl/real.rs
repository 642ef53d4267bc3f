//! NCCL on real GPUs: what `scripts/gpu-check.sh` runs where there are some.
//!
//! `nccl --gpu N` runs N ranks, one alone in this process or several as processes, each on a GPU of
//! its own; with `--one-gpu` all on the first. The numbers are small whole ones, so that every type
//! adds them exactly, in whatever order. Several ranks then train, while freed memory is reused and overwritten
//! at once. `nccl --gpu 0` only prints what is installed.

use crate::tower::{Tower, stays_right};
use burn::tensor::Device;
use burn_dist::comm::nccl::{Nccl, Options};
use burn_dist::comm::{Communicator, DeviceBuffer, Element, Label, OnDevice, Order, Reduce, local};
use burn_dist::launch::{DeviceKind, Flags, NProc, exit_code};
use burn_dist::{Error, Result};
use half::{bf16, f16};
use libloading::Library;
use std::ffi::c_void;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The version that the mock has, which must never stand in for a real one here.
const MOCK: u32 = 99_999;
const DEADLINE: Duration = Duration::from_secs(60);

/// What the command line asks for, if it asks for real GPUs.
pub(crate) fn asked() -> Option<(usize, bool)> {
    let args: Vec<String> = std::env::args().collect();
    let at = args.iter().position(|arg| arg == "--gpu")?;
    let ranks = args.get(at + 1)?.parse().ok()?;
    Some((ranks, args.iter().any(|arg| arg == "--one-gpu")))
}

pub(crate) fn run(ranks: usize, one_gpu: bool) -> ExitCode {
    let ran = match ranks {
        0 => installed(),
        1 => alone(),
        _ => processes(ranks, one_gpu),
    };
    if let Err(error) = &ran {
        eprintln!("error: {error}");
    }
    ExitCode::from(exit_code(&ran))
}

fn installed() -> Result<()> {
    let info = Nccl::available()?;
    println!(
        "NCCL {} from {}, {} GPUs",
        info.version, info.library, info.gpus
    );
    match info.version.0 {
        MOCK => Err(Error::user(
            "this is the library that stands in for NCCL in tests",
        )),
        _ => Ok(()),
    }
}

fn alone() -> Result<()> {
    installed()?;
    for order in [Order::Host, Order::Device] {
        let host = Arc::new(local::ranks(1, 1, DEADLINE).remove(0));
        let options = Options {
            deadline: DEADLINE,
            order,
        };
        let comm = Communicator::new(Nccl::new(host, 0, options)?);
        checks(&comm, &Cuda::open(0)?)?;
        let found = comm.on_device().map(|device| device.order());
        comm.leave();
        if found == Some(order) {
            println!("{order:?} order: all agree")
        } else {
            println!("skipped: {order:?} order, which this driver does not have")
        }
    }
    Ok(())
}

fn processes(ranks: usize, one_gpu: bool) -> Result<()> {
    let flags = Flags {
        nproc_per_node: Some(NProc::Count(ranks)),
        ..Flags::default()
    };
    let launch = burn_dist::launch(&flags).deadline(DEADLINE);
    let launch = if one_gpu {
        launch.device(Device::cuda(0))
    } else {
        launch.device(DeviceKind::Cuda)
    };
    let cpu = Device::flex().autodiff();
    // The same parameters in every process.
    cpu.seed(3);
    let whole = Tower::new(&cpu);
    let ran = launch.run(|world| {
        let ordinal = if one_gpu { 0 } else { world.rank() };
        checks(world.comm(), &Cuda::open(ordinal)?)?;
        stays_right(&world, &whole)?;
        let device = world.comm().on_device().map(|device| device.order());
        println!(
            "rank {} of {}: all agree, order {device:?}",
            world.rank(),
            world.size()
        );
        Ok(())
    });
    ran.map(drop)
}

/// The driver's functions for memory.
struct Cuda(Library);

type Address = u64;

impl Cuda {
    /// Enters the primary context of a GPU.
    fn open(ordinal: usize) -> Result<Self> {
        // SAFETY: the driver is a library as any other.
        let library = unsafe { Library::new("libcuda.so.1") };
        let cuda = Self(library.map_err(Error::user)?);
        let (mut device, mut context) = (0i32, std::ptr::null_mut::<c_void>());
        // SAFETY: the types are the driver's, and what is written to lives.
        unsafe {
            cuda.call::<extern "C" fn(u32) -> u32>("cuInit", |f| f(0))?;
            cuda.call::<extern "C" fn(*mut i32, i32) -> u32>("cuDeviceGet", |f| {
                f(&raw mut device, ordinal as i32)
            })?;
            cuda.call::<extern "C" fn(*mut *mut c_void, i32) -> u32>(
                "cuDevicePrimaryCtxRetain",
                |f| f(&raw mut context, device),
            )?;
            cuda.call::<extern "C" fn(*mut c_void) -> u32>("cuCtxSetCurrent", |f| f(context))?;
        }
        Ok(cuda)
    }

    /// # Safety
    /// `F` is the function's type.
    unsafe fn call<F: Copy>(&self, name: &str, call: impl FnOnce(F) -> u32) -> Result<()> {
        // SAFETY: the caller's promise.
        let function = unsafe { self.0.get::<F>(name) }.map_err(Error::user)?;
        match call(*function) {
            0 => Ok(()),
            code => Err(Error::user(format!("{name} returned {code}"))),
        }
    }

    /// Elements on the GPU, which are never freed: the process is about to end.
    fn buffer<T: Element>(&self, elements: &[T]) -> Result<DeviceBuffer> {
        let bytes = size_of_val(elements);
        let mut address: Address = 0;
        // SAFETY: as above; the memory is as long as what is copied.
        unsafe {
            self.call::<extern "C" fn(*mut Address, usize) -> u32>("cuMemAlloc_v2", |f| {
                f(&raw mut address, bytes.max(8))
            })?;
            self.call::<extern "C" fn(Address, *const c_void, usize) -> u32>(
                "cuMemcpyHtoD_v2",
                |f| f(address, elements.as_ptr().cast(), bytes),
            )?;
            // It may come back while the bytes still travel.
            self.call::<extern "C" fn() -> u32>("cuCtxSynchronize", |f| f())?;
            Ok(DeviceBuffer::new(
                address,
                elements.len(),
                T::DTYPE,
                Arc::new(()),
            ))
        }
    }

    fn read<T: Element>(&self, buffer: &DeviceBuffer) -> Result<Vec<T>> {
        let mut elements = vec![T::zeroed(); buffer.len()];
        // SAFETY: as above. Copying on the null stream waits for nobody, so everything is waited for.
        unsafe {
            self.call::<extern "C" fn() -> u32>("cuCtxSynchronize", |f| f())?;
            self.call::<extern "C" fn(*mut c_void, Address, usize) -> u32>(
                "cuMemcpyDtoH_v2",
                |f| {
                    f(
                        elements.as_mut_ptr().cast(),
                        buffer.address(),
                        buffer.size(),
                    )
                },
            )?;
        }
        Ok(elements)
    }
}

/// A type that small whole numbers are exact in.
trait Whole: Element + PartialEq + std::fmt::Debug {
    fn of(number: f64) -> Self;
}

macro_rules! whole {
    ($($t:ty: $of:expr),*) => { $(impl Whole for $t {
        fn of(number: f64) -> Self {
            $of(number)
        }
    })* };
}
whole!(f64: |x| x, f32: |x| x as f32, f16: f16::from_f64, bf16: bf16::from_f64, i32: |x| x as i32);

fn value(rank: usize, index: usize) -> f64 {
    ((rank * 5 + index * 3) % 13) as f64
}

fn same<T: Whole>(what: &str, found: &[T], expected: &[T]) -> Result<()> {
    let differ = found.iter().zip(expected).position(|(a, b)| a != b);
    match differ {
        None if found.len() == expected.len() => Ok(()),
        at => Err(Error::user(format!(
            "{what} of {}: differs at {at:?} of {}",
            T::DTYPE,
            expected.len()
        ))),
    }
}

fn checks(comm: &Communicator, cuda: &Cuda) -> Result<()> {
    let device = comm
        .on_device()
        .ok_or_else(|| Error::user("collectives between GPUs would go through the host"))?;
    for len in [0, 1, 7, 1013, 1 << 20] {
        every::<f64>(comm, device, cuda, len)?;
        every::<f32>(comm, device, cuda, len)?;
        every::<f16>(comm, device, cuda, len)?;
        every::<bf16>(comm, device, cuda, len)?;
        every::<i32>(comm, device, cuda, len)?;
    }
    Ok(())
}

fn every<T: Whole>(comm: &Communicator, on: OnDevice<'_>, cuda: &Cuda, len: usize) -> Result<()> {
    let (me, size, label) = (comm.rank(), comm.size(), Label::from("unit"));
    let mine = |rank: usize, len: usize| (0..len).map(move |i| T::of(value(rank, i)));
    let sum = |i: usize| T::of((0..size).map(|rank| value(rank, i)).sum());

    let mut whole = vec![T::of(99.0); len * size];
    whole[me * len..(me + 1) * len].copy_from_slice(&mine(me, len).collect::<Vec<_>>());
    let whole = cuda.buffer(&whole)?;
    on.all_gather_in_place(&label, &whole)?.wait()?;
    let all: Vec<T> = (0..size).flat_map(|rank| mine(rank, len)).collect();
    same("all_gather", &cuda.read(&whole)?, &all)?;

    let send = cuda.buffer(&mine(me, len * size).collect::<Vec<_>>())?;
    let recv = cuda.buffer(&vec![T::of(99.0); len])?;
    on.reduce_scatter(&label, Reduce::Sum, &send, &recv)?
        .wait()?;
    let expected: Vec<T> = (me * len..(me + 1) * len).map(sum).collect();
    same("reduce_scatter", &cuda.read(&recv)?, &expected)?;

    let both = cuda.buffer(&mine(me, len).collect::<Vec<_>>())?;
    on.all_reduce(&label, Reduce::Sum, &both)?.wait()?;
    let expected: Vec<T> = (0..len).map(sum).collect();
    same("all_reduce", &cuda.read(&both)?, &expected)?;

    let copy = cuda.buffer(&mine(me, len).collect::<Vec<_>>())?;
    on.broadcast(&label, size - 1, &copy)?.wait()?;
    same(
        "broadcast",
        &cuda.read(&copy)?,
        &mine(size - 1, len).collect::<Vec<_>>(),
    )
}
