#!/bin/sh
# The unit suites again, built with AddressSanitizer and UndefinedBehaviorSanitizer.
here=$(cd "$(dirname "$0")" && pwd)
export LSAN_OPTIONS=print_suppressions=0:suppressions="$here/leaks"	# the test library's own
export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
BUILD=build-asan SUITE=asan exec "$here/../unit/run.sh"
