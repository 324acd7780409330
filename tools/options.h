/*
 * Command lines by table. Each command is described once: its options, its operands, what they mean.
 * The parser, --help, the manual pages and the shells' completion are all made from that.
 */
#ifndef TOOLS_OPTIONS_H
#define TOOLS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

/* What an argument or an operand is: what shells complete it to. The command itself checks it. */
enum value_kind {
	VALUE_TEXT,
	VALUE_FILE,
	VALUE_FORMAT,	  /* of an image that is there */
	VALUE_NEW_FORMAT, /* of one that is to be created */
	VALUE_NUMBER,
	VALUE_SIZE,
	VALUE_CHOICE,	      /* one of the words in choices */
	VALUE_CREATE_OPTIONS, /* KEY=VALUE,... of a format that can be created */
};

enum {
	OPTION_MANY = 1 << 0,	  /* can be given again, and then means more */
	OPTION_OPTIONAL = 1 << 1, /* the argument may be left out: --name[=ARGUMENT] */
	OPTION_ALIAS = 1 << 2,	  /* another spelling, of older releases: help does not show it */
	OPTION_REFUSED = 1 << 3,  /* of a program that we stand in for; help says why it is not here */
	OPTION_HEADING = 1 << 4,  /* no option: help is the heading of those that follow */
};

/* A row with neither letter nor name ends a table (but for headings). */
struct option_row {
	char letter;	     /* -x; 0: none */
	const char *name;    /* --name; NULL: none */
	int id;		     /* what options_next() returns; 0: the letter */
	const char *metavar; /* NULL: it takes no argument */
	enum value_kind value;
	const char *choices; /* words with blanks between */
	unsigned flags;
	const char *help; /* a phrase of any length, without line breaks */
};

extern const struct option_row options_help_row; /* every command has it, though no table */

#define OPTION(...) \
	{ \
		__VA_ARGS__ \
	}

/* A row without a metavar ends a table. */
struct operand_row {
	const char *metavar;
	enum value_kind value;
	bool optional;
	bool many; /* one or more */
};

struct command {
	const char *name;	 /* NULL: the program itself */
	const char *alone;	 /* called under this name the program is this command; NULL: none */
	const char *purpose;	 /* a phrase */
	const char *description; /* sentences; an empty line between paragraphs */
	const struct option_row *options;
	const struct operand_row *operands;
	const char *notes;	 /* after the options: sentences, or NULL */
	const char *exit_status; /* NULL: 0 or 1, as usual */
	/* argv[0] is "PROGRAM COMMAND", as options_begin() expects it. Returns the exit code. */
	int (*run)(int argc, char **argv);
	void (*print_more)(void); /* the end of the help, or NULL */
	bool ends_at_operand;	  /* what follows the first operand is for somebody else */
};

/* ---- Parsing. One command line at a time. ---- */

enum {
	OPTIONS_END = -1,  /* operands are what is left */
	OPTIONS_EXIT = -2, /* with code: help was printed, or what is wrong was reported */
};

struct options {
	const struct command *command;
	const char *value; /* of the option that was returned; NULL: none */
	char **operands;   /* after OPTIONS_END; NULL past the last */
	int operand_count;
	int code;
	bool refused; /* the option is known, but cannot be honoured */
	int argc;
	char **argv; /* operands are moved to its end */
};

/* argv[0] is what complaints begin with. The parser does not check the number of operands. */
void options_begin(struct options *o, const struct command *command, int argc, char **argv);
/*
 * The same for a table of letters alone, of a command inside another's script: no --name, no --help,
 * and the caller says how it is used.
 */
void options_begin_letters(struct options *o, const struct option_row *table, int argc, char **argv);
/* The id of the next option; OPTIONS_END or OPTIONS_EXIT. */
int options_next(struct options *o);

/* ---- Printing ---- */

/* The names of the tool and of the command that it is now: "imgtool info", "qemu-io". */
void options_print_title(const struct command *c);
void options_print_help(const struct command *c);
/* "[-q] [-f FORMAT] FILE": everything on one line, without the command's name. */
void options_print_synopsis(const struct command *c);
/* The help of one table, as part of another's. */
void options_print_rows(const struct option_row *table);
/* text on standard output in lines of at most width columns; all but the first are indented. */
void options_print_wrapped(const char *text, unsigned column, unsigned indent);

/* The command's name in messages; NULL: the program is that command. */
const char *options_command_name(const struct command *c);
/* Is it the end of the table? */
bool option_row_ends(const struct option_row *row);
/* Is it an option that help and completion offer? Not a heading, an older spelling or a refusal. */
bool option_row_is_offered(const struct option_row *row);

/* ---- Options that many commands have ---- */

/* Ids of options without a letter. */
enum {
	ARG_OUTPUT = 256,
	ARG_IMAGE_OPTS,
	ARG_OBJECT,
	ARG_REFERENCES,
	ARG_FORCE,
	ARG_OWN, /* a command's own begin here */
};

#define OPTIONS_CACHE_MODES "none try-none writeback unsafe directsync writethrough"

#define OPTION_ROW_FORMAT(of) \
	OPTION(.letter = 'f', .name = "format", .metavar = "FORMAT", .value = VALUE_FORMAT, \
	       .help = of " (default: found out by its content)")
#define OPTION_ROW_IMAGE_OPTS(subject) \
	OPTION(.name = "image-opts", .id = ARG_IMAGE_OPTS, .help = (subject))
#define OPTION_ROW_CACHE(its_letter) \
	OPTION(.letter = (its_letter), .name = "cache", .metavar = "MODE", \
	       .value = VALUE_CHOICE, .choices = OPTIONS_CACHE_MODES, \
	       .help = "none, try-none (none where that is possible), writeback (default), " \
		       "unsafe, directsync or writethrough")
#define OPTION_ROW_SHARE(what) \
	OPTION(.letter = 'U', .name = "force-share", \
	       .help = "also if another program has " what " open for writing")
#define OPTION_ROW_OUTPUT \
	OPTION(.name = "output", .id = ARG_OUTPUT, .metavar = "human|json", \
	       .value = VALUE_CHOICE, .choices = "human json", \
	       .help = "for people (default) or for programs")
#define OPTION_ROW_QUIET \
	OPTION(.letter = 'q', .name = "quiet", .help = "print nothing but errors")
#define OPTION_ROW_OBJECT \
	OPTION(.name = "object", .id = ARG_OBJECT, .metavar = "OBJECT", .flags = OPTION_MANY, \
	       .help = "what other options speak of by id: secret,id=ID,data=TEXT or " \
		       "secret,id=ID,file=FILE for a password or key")
#define OPTION_ROW_REFERENCES \
	OPTION(.name = "references", .id = ARG_REFERENCES, .metavar = "POLICY", \
	       .value = VALUE_CHOICE, .choices = "none folder any", \
	       .help = "which files images may name: none, folder, any or DIR:DIR")

#define OPTION_ROW_FORCE \
	OPTION(.name = "force", .id = ARG_FORCE, \
	       .help = "write to it also where an image of its folder is based on it that refuses it " \
		       "afterwards (VMDK, VDI, VHDX)")

#endif
