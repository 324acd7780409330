#!/bin/sh
# The unit suites again, built with AddressSanitizer and UndefinedBehaviorSanitizer.
export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
BUILD=build-asan SUITE=asan exec "$(dirname "$0")/../unit/run.sh"
