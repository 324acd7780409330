/*
 * Asking for a passphrase: a line from the terminal, which shows nothing of it. Keys that would end or stop
 * the program end the question, so that the terminal is as it was then, too.
 */
#include "tools/prompt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "libimg/img.h"
#include "tools/args.h"
#include "tools/report.h"

enum {
	KEY_INTERRUPT = 3,
	KEY_END = 4,
	KEY_STOP = 26,
	KEY_QUIT = 28,
};

bool prompt_is_possible(void)
{
	return is_imgtool() && isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
}

/* One line, without its end, byte by byte: stdio would keep a copy. */
static int read_line(char *buf, size_t size, size_t *len)
{
	for (*len = 0;;) {
		char c = 0;
		ssize_t n = read(STDIN_FILENO, &c, 1);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0 || c == KEY_INTERRUPT || c == KEY_END || c == KEY_STOP || c == KEY_QUIT)
			return -ECANCELED;
		if (c == '\n' || c == '\r')
			return 0;
		if (*len == size)
			return -E2BIG;
		buf[(*len)++] = c;
	}
}

/* buf[0..len) without its last character, of UTF-8. */
static size_t erase_one(const char *buf, size_t len)
{
	while (len && ((unsigned char)buf[len - 1] & 0xc0) == 0x80)
		len--;
	return len ? len - 1 : 0;
}

/* What the line discipline would do with what was typed wrong. */
static void apply_erasures(char *buf, size_t *len, const struct termios *t)
{
	size_t to = 0;

	for (size_t i = 0; i < *len; i++) {
		cc_t c = (cc_t)buf[i];

		if (c == t->c_cc[VKILL])
			to = 0;
		else if (c == t->c_cc[VERASE] || c == '\b' || c == 127)
			to = erase_one(buf, to);
		else
			buf[to++] = buf[i];
	}
	explicit_bzero(buf + to, *len - to);
	*len = to;
}

static int ask(const char *question, const char *name, char *buf, size_t size, size_t *len)
{
	struct termios before, silent;
	int rc;

	if (tcgetattr(STDIN_FILENO, &before))
		return -errno;
	silent = before;
	silent.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG);
	silent.c_cc[VMIN] = 1;
	silent.c_cc[VTIME] = 0;
	if (tcsetattr(STDIN_FILENO, TCSAFLUSH, &silent))
		return -errno;
	fprintf(stderr, "%s '%s': ", question, name);
	fflush(stderr);
	rc = read_line(buf, size, len);
	apply_erasures(buf, len, &before);
	tcsetattr(STDIN_FILENO, TCSAFLUSH, &before);
	fputc('\n', stderr);
	return rc;
}

/* Once more, into as much memory behind the first. */
static int ask_again(const char *name, char *buf, size_t size, size_t len)
{
	char *again = buf + size;
	size_t again_len = 0;
	int rc = ask("Once more, the passphrase of", name, again, size, &again_len);

	if (!rc && (again_len != len || memcmp(buf, again, len) != 0)) {
		report_error("The two passphrases are not the same");
		rc = -EINVAL;
	}
	explicit_bzero(again, again_len);
	return rc;
}

int prompt_passphrase(void *user, const struct img_secret_request *request, void *buf, size_t size,
		      size_t *len)
{
	char *name = args_memory(img_printable(request->image));
	size_t most = request->is_new ? size / 2 : size;
	int rc;

	(void)user;
	if (request->attempt)
		report_error("Invalid password");
	rc = ask(request->is_new ? "New passphrase of" : "Passphrase of", name, buf, most, len);
	if (!rc && request->is_new)
		rc = ask_again(name, buf, most, *len);
	if (rc == -E2BIG)
		report_error("A passphrase has at most %zu bytes", most);
	free(name);
	return rc;
}
