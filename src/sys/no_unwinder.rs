//! The boot program has no unwinder: a panic prints its message and aborts.
//!
//! The precompiled standard library refers to one all the same, for clean-up that never runs and for backtraces. With
//! these definitions no other one is linked, and the optimizer sees that a backtrace has no frames: what would read
//! debug information to name them goes too, a third of the program.

use std::ffi::{c_int, c_void};
use std::process::abort;

/// `_URC_END_OF_STACK`
const END_OF_STACK: c_int = 5;

// SAFETY: the standard library is the only caller, and nothing else that is linked defines this name.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Backtrace(_frame: *const c_void, _argument: *mut c_void) -> c_int {
    END_OF_STACK
}

/// Functions that are only called while a panic unwinds.
macro_rules! unreachable {
    ($($name:ident)+) => {
        $(
            // SAFETY: as above; whatever the arguments, it does not return.
            #[unsafe(no_mangle)]
            extern "C" fn $name() -> ! {
                abort()
            }
        )+
    };
}

unreachable! {
    _Unwind_DeleteException
    _Unwind_FindEnclosingFunction
    _Unwind_GetCFA
    _Unwind_GetDataRelBase
    _Unwind_GetIP
    _Unwind_GetIPInfo
    _Unwind_GetLanguageSpecificData
    _Unwind_GetRegionStart
    _Unwind_GetTextRelBase
    _Unwind_RaiseException
    _Unwind_Resume
    _Unwind_SetGR
    _Unwind_SetIP
}
