"""What DingTalk answers when it refuses. Codes and meanings: api.md §7 and DingTalk's table of error codes."""

#: errcode → errmsg.
MESSAGES = {
    -1: "系统繁忙",
    33001: "无效的企业ID",
    33011: "无效的角色ID",
    33012: "无效的USERID",
    40014: "不合法的access_token",
    40035: "不合法的参数",
    40036: "参数为空",
    40068: "不合法的偏移量",
    40069: "不合法的分页大小",
    40078: "不存在的临时授权码",
    40082: "不合法的suitetoken",
    40084: "不合法的永久授权码",
    40085: "不存在的suiteticket",
    40088: "不合法的套件key或secret",
    40089: "不合法的corpid或corpsecret",
    42001: "access_token超时",
    43001: "需要GET请求",
    43002: "需要POST请求",
    50002: "企业员工不在授权范围",
    50004: "企业部门不在授权范围",
    52019: "无效的agentid",
    60003: "部门不存在",
    60011: "没有调用该接口的权限",
    60121: "找不到该用户",
    70001: "企业不存在或者已经被解散",
    71006: "回调地址已经存在",
    71007: "回调地址已不存在",
    71009: "返回文本非success",
    71010: "POST的JSON数据不包含所需要的参数字段或包含的参数格式非法",
    71011: "传入的url参数不是合法的url格式",
    71012: "url地址访问异常",
    90018: "您的应用调用该接口次数过多，请求被暂时禁用了",
    400001: "系统错误",
    400002: "参数错误",
    853001: "timestamp参数格式不正确，必须是当前时间的毫秒数",
    853002: "timestamp参数不合法，该参数值与钉钉服务器当前时间相差超过1分钟",
    853003: "accessKey参数不合法，必须是钉钉开放平台存在的appId",
    853004: "signature参数不正确，与钉钉服务端计算出来的签名不一致",
    853005: "suiteTicket参数不正确",
}
#: What DingTalk's gateway refuses; with `wrap_errors` it comes as errcode 88 with a sub_code.
GATEWAY = frozenset({40014, 42001, 60011, 90018})


class ApiError(Exception):
    """An old-style refusal: HTTP 200 with an errcode."""

    def __init__(self, errcode: int) -> None:
        super().__init__(MESSAGES[errcode])
        self.errcode = errcode
        self.errmsg = MESSAGES[errcode]


class NewStyleError(Exception):
    """A v1.0 refusal: an HTTP status with a code and a message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
