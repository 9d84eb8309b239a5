// Loops that are compiled for several processors.
#pragma once

// Without TWISTNET_X86 everything is done by the plain loops, as it is on other processors.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(TWISTNET_PLAIN)
#define TWISTNET_X86
#endif

// The same loop compiled for several processors, of which the running one chooses.
#if defined(TWISTNET_X86) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define TWISTNET_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "arch=x86-64-v2", "default")))
#else
#define TWISTNET_CLONES
#endif
