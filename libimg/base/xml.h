/* libxml2, loaded when the first document is parsed. */
#ifndef LIBIMG_BASE_XML_H
#define LIBIMG_BASE_XML_H

#include <libxml/parser.h>
#include <stdbool.h>
#include <stddef.h>

#include "libimg/base/error.h"

/* What documents of a kind may be. */
struct img_xml_rules {
	const char *users;    /* who needs libxml2: "Parallels folders" */
	size_t bytes_max;     /* up to INT_MAX */
	bool may_have_a_type; /* a document type may be named, which is not opened */
};

/*
 * Parse a document. Nothing else is opened, no entity is expanded, and what declares some is
 * refused. The first element is *root; the document is for img_xml_free().
 * -EUCLEAN: what is wrong, and in which line. -ENOPKG: no libxml2.
 */
int img_xml_parse(const char *text, size_t len, const struct img_xml_rules *rules, xmlDoc **out,
		  xmlNode **root, struct img_error *err);
void img_xml_free(xmlDoc *doc);

/* The first child element of that name from child on, or NULL: img_xml_find(e->children, "a"). */
xmlNode *img_xml_find(xmlNode *child, const char *name);
/* The element's text without the white space around it; malloc'd. NULL: no memory. */
char *img_xml_text(const xmlNode *element);

/* ---- Changes; all but -ENOMEM succeeds ---- */

/* One more element at the end of parent; text NULL: empty. NULL: no memory. */
xmlNode *img_xml_add(xmlNode *parent, const char *name, const char *text);
/* The text of a child element, which is added if there is none. */
int img_xml_set(xmlNode *parent, const char *name, const char *text);
/* The whole document as UTF-8, *len bytes; malloc'd. NULL: no memory. */
char *img_xml_print(xmlDoc *doc, size_t *len);

#endif
