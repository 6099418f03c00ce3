"""Patterns of orders to a machine, by kind. A pattern is tried only if one of its stems stands in the text."""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple


class Pattern(NamedTuple):
    kind: str
    stems: tuple[str, ...]
    pattern: str


def matched(text: str) -> Iterator[str]:
    for kind, stems, pattern in PATTERNS:
        if any(stem in text for stem in stems) and _compiled(pattern).search(text):
            yield kind


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    # Compiled at first use: all patterns take 20 ms of a cold start.
    return re.compile(pattern, re.DOTALL | re.MULTILINE)


def _order(kind: str, verbs: str, things: str, gap: int = 50) -> Pattern:
    """A verb and what it is done to, near each other; in many languages the thing comes first."""
    either = rf"(?:{verbs}).{{0,{gap}}}?(?:{things})|(?:{things}).{{0,{gap}}}?(?:{verbs})"
    return Pattern(kind, _stems(verbs), either)


def _stems(alternatives: str) -> tuple[str, ...]:
    """The plain beginnings of alternatives: a text without any of them cannot match the pattern."""
    plain = re.compile(r"(?:[^\\\[(?*+.](?![?*]))*")
    return tuple(plain.match(each)[0] for each in alternatives.split("|"))  # type: ignore[index]


def _any(kind: str, stems: str, *patterns: str) -> Pattern:
    return Pattern(kind, tuple(stems.split("|")), "|".join(patterns))


# For each language: verbs that set aside, and nouns for the orders that are set aside.
_OVERRIDES: Iterable[tuple[str, str]] = (
    # English
    (
        r"ignore|ignoring|disregard|forget|overrid|overrule|bypass|circumvent|discard|neglect|set aside|not follow|not obey|not apply|no longer appl|stop following|supersede",
        r"\binstruction|\bprompt|\brule|\bguideline|\bdirective|\bprogramming|\bconstraint|\bcriteria|\bscoring|everything (?:above|before|prior|so far|you)|\ball (?:of )?(?:the |that )?(?:above|prior|previous|preceding)|\bthe (?:above|preceding)|\b(?:previous|prior|preceding) (?:text|content|context|command|order|direction)|\byour (?:training|task|role|safety|polic)",
    ),
    # German
    (
        r"ignorier|vergiss|vergessen sie|missachte|uberschreib|umgehe|beachte nicht|setze dich uber",
        r"anweisung|\bregel|\bvorgabe|\banleitung|\bprompt|\bvorherig|\bbisherig|\balles (?:obige|davor|zuvor)|\bbefehl",
    ),
    # French
    (
        r"ignore|oublie|neglige|ne tiens? pas compte|ne tenez pas compte|fais abstraction|contourne",
        r"\binstruction|\bconsigne|\bregle|\bdirective|\bprompt|ci-dessus|tout ce qui precede",
    ),
    # Spanish
    (r"ignor|olvid|omit|descart|haz caso omiso|salt", r"\binstruccion|\bregla|\bindicacion|\bordenes|todo lo anterior|\bprompt|\bdirectri"),
    # Portuguese
    (r"ignor|esquec|desconsider|descart", r"\binstruc|\binstrucoes|\bregra|tudo (?:o que veio )?(?:acima|antes)|\bprompt|\bdiretri|\borientac"),
    # Italian
    (r"ignor|dimentica|trascur|non seguire", r"\bistruzion|\bregol|quanto (?:sopra|precede)|\bprompt|\bdirettiv"),
    # Dutch
    (r"negeer|vergeet|sla .{0,10}over|omzeil", r"\binstructie|\bregel|al het voorgaande|alles hierboven|\bprompt|\baanwijzing|\bopdracht"),
    # Swedish, Danish, Norwegian
    (r"ignorer|bortse|glem|glom", r"\binstruk|\bregl|allt ovan|alt ovenfor|\bprompt"),
    # Polish
    (r"zignoruj|ignoruj|zapomnij|pomin|lekcewaz", r"\binstrukcj|\bpolecen|\bzasad|\bregul|wszystko powyzej|\bprompt"),
    # Russian and Ukrainian
    (r"игнорируй|проигнорируй|забудь|отмени|не учитывай|ігноруй|проігноруй", r"инструкц|правил|указани|вс[её] предыдущ|промпт|команд|інструкц|вказівк"),
    # Turkish, Indonesian, Vietnamese, Swahili, Maori, Samoan, Tagalog
    (r"yok say|gormezden gel|unut|dikkate alma", r"talimat|kural|komut|yonerge"),
    (r"abaikan|lupakan|acuhkan", r"instruksi|perintah|aturan|petunjuk"),
    (r"bo qua|quen|phot lo", r"huong dan|chi thi|quy tac|menh lenh"),
    (r"puuza|sahau", r"maagizo|maelekezo|sheria"),
    (r"kaua e (?:aro|whai)|wareware|waiho", r"tohutohu|ture|whakahau"),
    (r"amana|aua e te mulimuli|galo", r"faatonuga|fa'atonuga|tulafono"),
    (r"huwag pansinin|balewalain|kalimutan", r"tagubilin|panuto|utos|patakaran"),
    # Chinese, Japanese, Korean
    (r"忽略|无视|無視|忘记|忘記|忽視|忽视|不要遵守|跳过", r"指令|指示|规则|規則|提示|以上|之前|系统|系統|命令"),
    (r"無視|忘れ|従わない|破棄", r"指示|命令|ルール|プロンプト|以前|これまで|上記"),
    (r"무시|잊어|잊고|따르지", r"지시|명령|규칙|프롬프트|이전|지침"),
    # Arabic, Hebrew, Persian
    (r"تجاهل|انس|إهمال|أهمل|لا تتبع", r"تعليمات|أوامر|القواعد|السابقة|إرشادات|توجيهات"),
    (r"התעלם|התעלמי|שכח", r"הוראות|כללים|הקודמות|הנחיות"),
    (r"نادیده|فراموش", r"دستور|قوانین|قبلی"),
    # Hindi, Thai, Greek
    (r"अनदेखा|नज़रअंदाज|नजरअंदाज|भूल|अनदेखी", r"निर्देश|नियम|आदेश|पिछले"),
    (r"เพิกเฉย|ละเว้น|ลืม|ไม่ต้องสนใจ", r"คำสั่ง|กฎ|ก่อนหน้า"),
    (r"αγνοησε|αγνόησε|ξεχασε|ξέχασε|αγνοηστε|αγνοήστε", r"οδηγι|κανον|προηγουμεν|προηγούμεν|κανόν|εντολ|εντολέ"),
)  # fmt: skip

_MACHINE = r"(?:a\.?i\.?|llm|gpt|chat ?gpt|chat ?bot|bot|language model|ai assistant|assistant model|model|claude|gemini|copilot|(?:lead |ai )?(?:qualifier|classifier|grader|scorer|evaluator|scoring (?:engine|system|tool)))"
_GRADE = r"(?:100|99|10/10|100 ?%|hundred|max(?:imum|imal|imo|ima)?|highest|top|perfect|full|best|hoch\w{0,12}|mejor|alta|haut\w{0,12}|zero|0|najwyz\w{0,12}|maks\w{0,12})"

PATTERNS: tuple[Pattern, ...] = (
    *(_order("override", verbs, things) for verbs, things in _OVERRIDES),
    _any(
        "role",
        "system|assistant|user|human|developer|tool|function|inst|prompt|<|mode|end|begin|start|close|stop",
        r"(?:^|[.!?;]\s)[\s>#*\-=\[({]{0,20}(?:system|assistant|user|human|developer|tool|ai|function|bot|operator)(?: (?:message|prompt|note|override|update|notice|instruction|turn))?[\])}*#]{0,5}\s?[:：>=-]",
        r"<\|?/?\s{0,5}(?:im_start|im_end|system|assistant|user|endoftext|eot_id|start_header_id|begin_of_text|sys|inst|s)\b",
        r"\[/?\s{0,5}(?:inst|system|assistant|user|sys|/sys|admin|developer)\b",
        r"<</?sys>>",
        r"</?\s{0,5}(?:system|assistant|user|instructions?|prompt|enquiry|data|input|tool_?calls?|function_?calls?|invoke|message|context|untrusted)\b",
        r"##\s{0,3}(?:system|instruction|response|assistant|human|user|new task|end)",
        r"\b(?:begin|end|start|close|stop)[ _-]{1,3}(?:of[ _-])?(?:the[ _-])?(?:system|prompt|data|enquiry|form|user|untrusted|input|message|customer|context|instruction)s?\b",
        r"[-=#*_]{3}\s{0,3}(?:begin|end|start|close|stop)\b|\b(?:customer|user|untrusted) (?:input|data)\b",
        r"\b(?:admin|administrator|system|developer|supervisor|root|debug|maintenance|god|security)[ _-](?:override|notice|prompt|instruction|command|mode|directive|note to)\b",
        r"\bsystem (?:message|update)\b.{0,30}[:：]",
    ),
    _any(
        "persona",
        "you are|you're|act as|act like|pretend|role|jailb|now on|your new|new task|new instruction|developer mode|dan mode|simulate|imagine|du bist|tu es|vous etes|eres|voce|sei ora|jestes|ты |你现在|你是|あなたは|당신은|sen art",
        r"\byou(?: are|'re) (?:now|no longer|actually)\b",
        rf"\byou(?: are|'re) (?:an? |the )?(?:\w{{1,20}} ){{0,2}}{_MACHINE}\b",
        rf"\b(?:act|behave|respond|answer) (?:as|like) (?:if |though )?(?:you|an? |the )(?:\w{{1,20}} ){{0,3}}(?:{_MACHINE}|were|are|unrestricted|admin\w{{0,12}}|developer|dan)\b",
        r"\bpretend (?:to be|that|you)|\brole-?play|\bjailbr[eo]a?k|\bdan mode|\bdeveloper mode",
        r"\bfrom now on\b.{0,30}\b(?:you|every|all|any|leads?|respond|answer|score)\b",
        r"\b(?:your|the) new (?:task|job|role|instructions?|rules?|objective|goal|persona)\b|\bnew (?:instructions?|task|rules?|directives?)\s{0,5}[:：]",
        r"\b(?:simulate|imagine|suppose)\b.{0,60}\b(?:score|scor|leads?|model|assistant|instruction|qualif)",
        r"\bdu bist (?:jetzt|nun|ab jetzt)|\b(?:tu es|vous etes) (?:maintenant|desormais)|\bahora eres|\beres ahora|\bagora voce|\bvoce (?:e )?agora|\bsei ora|\bjestes teraz|\bteraz jestes|ты теперь|теперь ты|你现在是|从现在起|あなたは今|당신은 이제|artik sen|sen artik",
    ),
    _any(
        "score",
        "score|scor|rating|rate |band|grade|rank|qualif|hot lead|confidence|next_step|next step|decision|call_now|punkt|bewert|punt|pontu|note de|ocen|оцен|балл|评分|分数|評分|スコア|点数|점수|درجة|स्कोर|अंक|puan|skor|diem|βαθμ|ציון|poang|klasse|lead",
        rf"\b(?:give|giv|set|mark|rate|rating|assign|classif\w{{1,20}}|grade|rank|score|treat|flag|return|output|respond|reply|answer|put|award|bump|raise|increase|make|adjust|override|upgrade|must|should|always|needs? to)\b.{{0,50}}?\b(?:scores?\b.{{0,25}}?\b{_GRADE}\b|{_GRADE} (?:\w{{1,20}} )?scores?|scored? (?:of )?{_GRADE}|band\W{{0,4}}[abc]\b|grade\W{{0,4}}a\b|hot lead|vip lead|(?:fully |highly |pre-?)?qualified|100 ?/ ?100|10 ?/ ?10|100 points)",
        rf"\bscores?\b.{{0,20}}?(?:\b(?:as|at|with|of|to|is|be|must|should|exactly|=|:)\W{{0,3}}{_GRADE}\b|\W{{0,3}}\b{_GRADE}\b)",
        r"\b(?:score|lead_score|confidence|decision|band|service|reasons?|next_step|outcome|tool_?calls?|org_id|contact_id|lead_id)[\"']\s{0,5}[:=]",
        r"\b(?:lead_score|next_step|call_now|follow_up_decision|tool_calls?|score\s{0,5}=\s{0,5}\d|band\s{0,5}=)",
        r"\b(?:confidence|next step|decision)\b.{0,15}?(?:\b1\.0|\b1\b|\b100|call|=)",
        rf"(?:punkt\w{{0,12}}|bewert\w{{0,12}}|punt[aiou]\w{{0,12}}|pontua\w{{0,12}}|punteg\w{{0,12}}|note de|\bnote\b|ocen\w{{0,12}}|оцен\w{{0,12}}|балл\w{{0,12}}|评分|分数|評分|得分|スコア|点数|점수|درجة|स्कोर|अंक|puan\w{{0,12}}|skor\w{{0,12}}|diem|βαθμ\w{{0,12}}|ציון|poang\w{{0,12}}|\bscore\b).{{0,30}}?(?:{_GRADE}|١٠٠|१००|１００|百|满分|滿分|最高|満点|최고|만점|высш\w{{0,12}}|максим\w{{0,12}}|القصوى|أعلى)",
        rf"(?:{_GRADE}|١٠٠|१००|满分|滿分|最高|満点|최고|만점|высш\w{{0,12}}|максимальн\w{{0,12}}).{{0,25}}?(?:punkt\w{{0,12}}|bewert\w{{0,12}}|punt[aiou]\w{{0,12}}|pontua\w{{0,12}}|punteg\w{{0,12}}|ocen\w{{0,12}}|оцен\w{{0,12}}|балл\w{{0,12}}|评分|分数|評分|スコア|点数|점수|درجة|स्कोर|अंक|puan|skor|diem|βαθμ\w{{0,12}}|ציון|poang)",
        r"\b(?:treat|mark|classify|flag|tag|label|categori[sz]e|consider|qualify|accept|approve) (?:this|the|my|it|every|all|me)(?: \w{1,20}){0,3} as (?:an? |the |your )?(?:\w{1,20} ){0,2}(?:hot|qualified|vip|band|score|top[- ]?(?:tier|lead|score)|highest|a-?band|approved|high[- ]value|premium|won|platinum)\b",
        r"\b(?:this|the|my) (?:lead|enquiry|inquiry|submission|request|form|contact|customer)\b.{0,40}\b(?:band a|pre-?approved|pre-?qualified|already (?:been )?(?:scored|qualified|approved|verified)|must be (?:scored|rated|classified|qualified|band|approved)|highest band|score)\b",
    ),
    _any(
        "theft",
        "prompt|instruction|api|secret|password|token|credential|database|customer|contacts|leads|memory|configuration|environment|env",
        r"\b(?:reveal|print|show|repeat|output|leak|send|list|dump|exfiltrate|forward|e-?mail|disclose|include|append|display|write|expose|copy|tell me|give me|return|summari[sz]e|quote|recite|translate)\b.{0,60}?\b(?:(?:system|hidden|original|initial|secret|your|full|above|entire) (?:\w{1,20} )?(?:prompt|instructions?|message|rules|context|configuration|memory)|api[ _-]?keys?|secrets?\b|passwords?|access tokens?|credentials?|environment variables?|service[ _]role|database|connection string|(?:all|other|every|previous|your|recent|the last \w{1,20}|any) (?:\w{1,20} )?(?:customers?|contacts|leads|enquir\w{1,20}|clients|tenants?|users|organi[sz]ations)(?:'s?)?\b)",
        r"\b(?:what|which|who)\b.{0,30}\b(?:other|previous|earlier) (?:customers?|contacts|leads|clients|users|tenants?)\b.{0,20}\b(?:ask|say|said|want|wrote|write|told|pay|paid|are|were|is|was)",
    ),
    _any(
        "tool",
        "tool|function|sql|query|execute|run |curl|wget|select|drop table|delete from|insert into|update |import os|subprocess|http|webhook|send_|_email|_sms|_lead|_contact|_call|call_",
        r"\b(?:call|use|invoke|execute|run|trigger|fire)\b(?: \w{1,20}){0,2} [`\"']?(?:\w{1,20}_\w{1,20}|sql|query|queries|webhook|script|(?:the|this|a|your|any|all) (?:following |available |given )?(?:tools?|functions?|command|endpoint|api))\b",
        r"\b[a-z]+(?:_[a-z]+)+\s{0,2}\(",
        r"\"?(?:tool|function)(?:_call)?s?\"?\s{0,5}[:=]\s{0,5}[\[{\"']",
        r"\bselect\b.{1,40}\bfrom\b.{1,40}\b(?:where|;|contacts|leads|users|auth)|\bdrop table|\bdelete from\b|\binsert into\b|\bupdate \w{1,20} set\b|\bunion select",
        r"\b(?:curl|wget)\s+-?\S*\s{0,5}(?:https?:|-)|\bimport os\b|\bsubprocess\.|\bfetch\(",
        r"\b(?:send|post|forward|upload|submit)\b.{0,60}?\b(?:to|at)\b.{0,20}?(?:https?://|webhook)",
    ),
    _any(
        "address",
        "ai|llm|gpt|bot|model|claude|gemini|copilot|qualifier|classifier|grader|scorer|evaluator|scoring|automat|ki-|ia |ии|人工智能|助手|アシスタント|모델|모형|인공지능",
        rf"\b(?:dear|attention|attn|note (?:to|for)|message (?:to|for)|instructions? (?:to|for)|hey|hi|hello|listen|important for|reminder (?:to|for)|if you are|as|whoever is|to the|to any|for the|for any)\b[ ,:]{{1,3}}(?:all |an? |the |any |our |your |you |automated |friendly |helpful )*{_MACHINE}\b(?! (?:number|no\b|is|was|of|year|name|we|has|that|and|home|house|railway|boat|train|t\b|s\b|3\b))",
        r"\b(?:as|being) an? (?:ai|large|language)\b|\blarge language model|\blanguage model|\bautomated (?:reviewer|reader|agent|assistant|scoring|triage)\b",
        r"\ban (?:die|den) ki\b|\bliebe ki\b|\bchere ia\b|\bquerida ia\b|\bуважаем\w{1,20} ии\b|亲爱的人工智能|人工智能|ai助手|ai 助手|aiアシスタント|인공지능",
    ),
    _any(
        "format",
        "json|reply|respond|answer|output|return|{|}|schema|verbatim|exactly|say ",
        r"\b(?:reply|respond|answer|output|return|say|print|write)\b.{0,20}?\b(?:json|exactly|verbatim|(?:with )?only (?:with |the (?:word|number|text|following|json))|the (?:word|following|number)|nothing (?:else|but)|schema)\b",
        r"[\"'][ \n]{0,3}[}\]][ \n]{0,3}[,}\]]|[\"']\s{0,3}[}\]]\s{0,3}[{\[\"']|[{,]\s{0,3}[\"'][\w -]{1,40}[\"']\s{0,3}[:=]",
        r"[{]\s{0,3}\w{1,30}\s{0,3}:\s{0,3}[\d\"'\[{]",
    ),
    _any(
        "markup",
        "<|![|](",
        r"<!--|-->|<!\[cdata|<\s{0,5}(?:script|img|iframe|svg|style|link|meta|object|embed|form|input|body|html|div|span|a|details|template|xml|\?xml|!doctype|!entity|font|marquee|video|button)\b",
        r"!\[.{0,200}?\]\s{0,2}\(|\]\(\s{0,2}(?:https?:|javascript:|data:|/)",
    ),
    _any(
        "decode",
        "base64|rot13|decode|decrypt|hex|cipher|backwards|reverse|reversed|morse|acrostic|first letter",
        r"\b(?:decode|decrypt|decipher|base64|rot-?13|unscramble)\b|\b(?:read|interpret|reverse)\b.{0,30}\b(?:backwards?|reversed?|in reverse|first letters?)\b|\bfirst letters? of each\b",
    ),
)
