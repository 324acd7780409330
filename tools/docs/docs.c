/* docs FOLDER: write all that docs.h makes into a folder, laid out like PREFIX/share. */
#include "tools/docs/docs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/img.h"

bool docs_has_words(enum value_kind value, const char *choices)
{
	return value == VALUE_FORMAT || value == VALUE_NEW_FORMAT || choices;
}

void docs_put_words(FILE *out, enum value_kind value, const char *choices)
{
	const char *name, *gap = "";
	size_t i;

	if (choices)
		fputs(choices, out);
	if (value != VALUE_FORMAT && value != VALUE_NEW_FORMAT)
		return;
	for (i = 0; (name = img_format_at(i)); i++) {
		if (value == VALUE_NEW_FORMAT && !(img_format_features(name) & IMG_FORMAT_CREATE))
			continue;
		fprintf(out, "%s%s", gap, name);
		gap = " ";
	}
}

void docs_put_quoted(FILE *out, const char *text, const char *special)
{
	for (; *text; text++) {
		if (strchr(special, *text))
			putc('\\', out);
		if (*text == '\'')
			fputs("'\\''", out);
		else
			putc(*text, out);
	}
}

static FILE *open_file(const char *folder, const char *name)
{
	char path[4096];
	FILE *out;

	if (snprintf(path, sizeof(path), "%s/%s", folder, name) >= (int)sizeof(path))
		errno = ENAMETOOLONG;
	else if ((out = fopen(path, "w")))
		return out;
	fprintf(stderr, "docs: %s/%s: %s\n", folder, name, strerror(errno));
	exit(1);
}

static void close_file(FILE *out, const char *name)
{
	bool failed = ferror(out);

	if (fclose(out) || failed) {
		fprintf(stderr, "docs: %s: %s\n", name, strerror(errno));
		exit(1);
	}
}

static void write_pages(const char *folder)
{
	FILE *out = open_file(folder, "man/man1/imgtool.1");
	const struct command *c;
	char name[64];
	size_t i;

	man_program(out);
	close_file(out, "imgtool.1");
	for (i = 0; (c = command_at(i)); i++) {
		snprintf(name, sizeof(name), "man/man1/imgtool-%s.1", c->name);
		out = open_file(folder, name);
		man_command(out, c);
		close_file(out, name);
	}
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*write)(FILE *out);
	} completions[] = {
		{ "bash-completion/completions/imgtool", bash_completion },
		{ "zsh/site-functions/_imgtool", zsh_completion },
		{ "fish/vendor_completions.d/imgtool.fish", fish_completion },
	};
	size_t i;

	if (argc != 2) {
		fputs("Usage: docs FOLDER\n", stderr);
		return 1;
	}
	write_pages(argv[1]);
	for (i = 0; i < sizeof(completions) / sizeof(completions[0]); i++) {
		FILE *out = open_file(argv[1], completions[i].name);

		completions[i].write(out);
		close_file(out, completions[i].name);
	}
	return 0;
}
