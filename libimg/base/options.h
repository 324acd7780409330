/*
 * Options as text: "key=value,key=value" against a table that says which keys exist. A comma in a
 * value is doubled. A boolean key without a value is on, "noKEY" is off.
 */
#ifndef LIBIMG_BASE_OPTIONS_H
#define LIBIMG_BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct img_error;

enum img_option_type {
	IMG_OPTION_STRING,
	IMG_OPTION_PATH,   /* a string: a further file of the image */
	IMG_OPTION_SECRET, /* a string: the id of a secret, which there must be */
	IMG_OPTION_BOOL,
	IMG_OPTION_NUMBER,
	IMG_OPTION_SIZE,
};

/* A row of a table; the table ends with a row whose name is NULL. */
struct img_option {
	const char *name;
	enum img_option_type type;
	const char *help;     /* one line */
	const char *fallback; /* the default, as text; NULL: none */
	const char *choices;  /* "off,falloc,full": the only values; NULL: any */
};

/* The values given for one table. Owns copies of all text. Not thread-safe. */
struct img_options;

/* NULL: out of memory. table is borrowed and must outlive the options. */
struct img_options *img_options_new(const struct img_option *table);
void img_options_free(struct img_options *o);

/*
 * Add "a=1,b=2"; a later value of a key replaces the earlier one. -EINVAL: an unknown key
 * ("Invalid parameter 'foo'"), a value of the wrong type or not among the choices.
 */
int img_options_parse(struct img_options *o, const char *text, struct img_error *err);
/* The same for one key. value NULL: as a key without a value. */
int img_options_set(struct img_options *o, const char *key, const char *value,
		    struct img_error *err);

/* Was a value given (not the default)? */
bool img_options_has(const struct img_options *o, const char *key);
/* The value or else the default; NULL, 0, false if there is neither. key must be in the table. */
const char *img_options_string(const struct img_options *o, const char *key);
uint64_t img_options_number(const struct img_options *o, const char *key); /* NUMBER, SIZE */
bool img_options_bool(const struct img_options *o, const char *key);
/* As if it had not been given; its value is wiped, as all values are when the options are freed. */
void img_options_forget(struct img_options *o, const char *key);

#endif
