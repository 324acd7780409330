/* The subcommands: a file for each. */
#ifndef TOOLS_COMMAND_H
#define TOOLS_COMMAND_H

#include "tools/options.h"

extern const struct command amend_command, bench_command, check_command, commit_command,
	compare_command, convert_command, create_command, info_command, io_command, map_command, measure_command,
	rebase_command, resize_command;

/* The program itself; and in alphabetical order its commands; NULL past the last. */
extern const struct command program_command;
const struct command *command_at(size_t i);

#endif
