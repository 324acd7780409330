/*
 * The subcommands. argv[0] is "PROGRAM COMMAND", as getopt_long() puts it before its complaints.
 * Each returns the exit code; main() sees to what could not be written to standard output.
 */
#ifndef TOOLS_COMMAND_H
#define TOOLS_COMMAND_H

int bench_run(int argc, char **argv);
int check_run(int argc, char **argv);
int compare_run(int argc, char **argv);
int convert_run(int argc, char **argv);
int create_run(int argc, char **argv);
int info_run(int argc, char **argv);
int io_run(int argc, char **argv); /* under the name qemu-io argv[0] is that */
int map_run(int argc, char **argv);
int resize_run(int argc, char **argv);

#endif
